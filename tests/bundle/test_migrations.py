"""Model files of every version of the format are read; each version has a small file here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from asrkit.bundle.migrations import FORMAT, MIGRATIONS
from asrkit.bundle.model_file import load_language_model, load_recognizer, part_of, read_model_file
from asrkit.models.blstm import BlstmEncoder
from asrkit.models.predictor import LstmPredictor

FILES = Path(__file__).resolve().parent / "files"
VERSIONS = [*MIGRATIONS, FORMAT]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What version 1 computed with these weights."""
    values: dict[str, Any] = json.loads((FILES / "expected.json").read_text())
    return values


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recognizer_of_every_version_computes_the_same(version: str, expected: dict[str, Any]) -> None:
    path = FILES / f"recognizer_{version}.safetensors"
    bundle = load_recognizer(path)
    model = bundle.model
    assert isinstance(model.encoder, BlstmEncoder) and isinstance(model.predictor, LstmPredictor)
    x = torch.linspace(-1, 1, 2 * 9 * 16).view(2, 9, 16)
    with torch.no_grad():
        encoder_out, _ = model.encoder(x, torch.tensor([9, 6]))
        logits = model.joiner(encoder_out, model.predictor(torch.tensor([[2, 1, 3], [4, 2, 2]])))
    assert torch.allclose(logits[0, ::4, ::2], torch.tensor(expected["logits"]), atol=1e-6)
    # Parts that only training needs are kept for training alone.
    objective = part_of(read_model_file(path).tensors, "objective")
    assert sorted(name.split(".")[0] for name in objective) == ["ctc_head"] * 2 + ["simple_joiner"] * 4
    ctc = torch.nn.functional.linear(encoder_out[0, -1], objective["ctc_head.weight"], objective["ctc_head.bias"])
    assert torch.allclose(ctc, torch.tensor(expected["ctc"]), atol=1e-6)
    assert bundle.statistics["global"].std.tolist() == [3.0] * 8


@pytest.mark.parametrize("version", VERSIONS)
def test_a_language_model_of_every_version_computes_the_same(version: str, expected: dict[str, Any]) -> None:
    model = load_language_model(FILES / f"language_model_{version}.safetensors").model
    with torch.no_grad():
        log_probs = model(torch.tensor([[2, 1, 3]]))[0]
    assert torch.allclose(log_probs, torch.tensor(expected["log_probs"]), atol=1e-6)


def test_the_files_are_of_their_versions() -> None:
    for version in VERSIONS:
        names = set(load_file(FILES / f"recognizer_{version}.safetensors"))
        assert ("model.predictor.lstm.weight_ih_l0" in names) == (version == "1")
        assert ("model.predictor.layers.0.weight_ih" in names) == (version != "1")
