"""Large batches with many learners: what holds whatever comes out."""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from asrkit.errors import UserError
from asrkit.studies import large_batch_suite
from asrkit.studies.cifar10 import CLASSES
from asrkit.studies.large_batches import Examples, Run, image_network, train

RUN = Run("SSGD", 64, 0.1, 1, 4, 4, 1.0, 0.01)


@pytest.fixture(scope="module")
def images() -> Examples:
    """Images whose brightness is their class."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (256,), generator=generator)
    noise = 0.1 * torch.randn(256, 3, 32, 32, generator=generator)
    return Examples(noise + (labels.float().view(-1, 1, 1, 1) - 4.5) / 3, labels)


def test_what_is_measured(images: Examples) -> None:
    """The reference being the batch itself, SSGD's effective rate is its rate and its noise is 0."""
    whole = replace(RUN, batch_size=256, epochs=8)
    trace = train(whole, images, image_network, watch=True)
    assert trace.steps == [0, 4]
    assert trace.effective_lr == pytest.approx([1.0, 1.0], abs=1e-4)
    assert max(trace.noise) < 1e-8 and max(trace.noise_of_batches) < 1e-8 and trace.spread == [0.0, 0.0]
    decentralized = train(replace(whole, strategy="DPSGD"), images, image_network, watch=True)
    assert decentralized.spread[1] > 1e-6 and decentralized.noise[1] > 10 * decentralized.noise_of_batches[1]


@pytest.mark.parametrize("strategy", ["SSGD", "SSGD with noise", "DPSGD", "D1D"])
def test_small_rates_learn_and_huge_ones_do_not(strategy: str, images: Examples) -> None:
    run = replace(RUN, strategy=strategy, epochs=10)
    again = train(run, images, image_network)
    assert train(run, images, image_network).final_loss == again.final_loss < 2.0
    assert train(replace(run, lr=1000.0), images, image_network).final_loss > math.log(10)


def test_the_suite_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    for archive in ("train.zip", "test.zip"):
        with zipfile.ZipFile(tmp_path / archive, "w") as file:
            for number in range(160):
                content = io.BytesIO()
                label = number % 10
                pixels = np.clip(generator.normal(25 * label, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(content, "PNG")
                file.writestr(f"{archive[:-4]}/{CLASSES[label]}/{number}.png", content.getvalue())
    scale = large_batch_suite.Scale(examples=128, learners=4, batch_sizes=(64,), factors=(1.0, 2.0), epochs=8, seeds=1)
    monkeypatch.setattr(large_batch_suite, "Scale", lambda: scale)
    out = tmp_path / "out"
    large_batch_suite.run_large_batches(out, tmp_path, full=False)
    page = (out / "RESULTS.md").read_text()
    assert "| DPSGD | " in page and "Batch of 64, 16 for each learner" in page
    assert (out / large_batch_suite.MAP).stat().st_size > 1000
    found = json.loads((out / "results.json").read_text())["runs"]
    assert len(found) == 8 and {run["strategy"] for run in found} == {"SSGD", "SSGD with noise", "DPSGD", "D1D"}


def test_frames_of_speech_are_classified_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(3, (96,), generator=generator).clamp(max=1)  # class 1 twice as often
    x = torch.randn(96, 8, generator=generator) + 4 * y[:, None]
    save_file({"x": x, "y": y}, tmp_path / large_batch_suite.FRAMES)
    problem = large_batch_suite.read_problem(tmp_path)
    share = float((y == 0).sum()) / 96
    assert problem.guess == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))
    scale = large_batch_suite.Scale(examples=64, learners=4, batch_sizes=(64,), factors=(8.0,), epochs=40, seeds=1)
    monkeypatch.setattr(large_batch_suite, "Scale", lambda: scale)
    large_batch_suite.run_large_batches(tmp_path / "out", tmp_path, full=False)
    assert "| SSGD | 1/1" in (tmp_path / "out" / "RESULTS.md").read_text()
    monkeypatch.setattr(large_batch_suite, "Scale", lambda: replace(scale, examples=100))
    with pytest.raises(UserError, match="has 96 examples; 100 are needed"):
        large_batch_suite.run_large_batches(tmp_path / "more", tmp_path, full=False)


def test_the_sign_test() -> None:
    assert large_batch_suite.sign_test(0, 0) == 1.0 and large_batch_suite.sign_test(1, 0) == 1.0
    assert large_batch_suite.sign_test(6, 0) == pytest.approx(2 / 64)
    assert large_batch_suite.sign_test(2, 8) == pytest.approx(2 * 56 / 1024)
