from __future__ import annotations

import gzip
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from asrkit.config_files import config_from_dict
from asrkit.data.text_lines import encode_text, plan_text_epoch
from asrkit.errors import UserError
from asrkit.text.tokenizer import CharTokenizer
from asrkit.training.checkpoint import load_model
from asrkit.training.language_model import load_language_model, perplexity, train_language_model
from asrkit.training.progress import read_metrics
from asrkit.training.stopping import Stopped

TOKENIZER = CharTokenizer(("<blank>", "▁", "A", "B", "C"))
LINES = ["AB AB", "ABAB AB", "AB", "AB AB AB"] * 40
SETTINGS: dict[str, Any] = {
    "lm": {"hidden_dim": 16, "bottleneck_dim": 8, "batch_symbols": 200, "dropout": 0.1},
    "train": {"num_epochs": 4, "checkpoint_every_steps": 3, "device": "cpu",
              "schedule": {"type": "one_cycle", "peak_lr": 2e-2, "warmup_epochs": 1}},
}  # fmt: skip


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join([*LINES, "AXB", "", "A" * 500]))
    return path


def test_lines_are_encoded_once_and_what_does_not_fit_is_counted(text: Path, tmp_path: Path) -> None:
    lines, left_out = encode_text([text], TOKENIZER, tmp_path / "encoded", 400)
    assert len(lines) == len(LINES) and left_out == 2  # a foreign character, a long line
    written = (tmp_path / "encoded" / "tokens.bin").stat().st_mtime_ns
    again, _ = encode_text([text], TOKENIZER, tmp_path / "encoded", 400)
    assert (tmp_path / "encoded" / "tokens.bin").stat().st_mtime_ns == written
    plan = plan_text_epoch(again.lengths, 200, torch.Generator().manual_seed(3))
    assert sorted(n for batch in plan for n in batch) == list(range(len(LINES)))
    for batch in plan:
        tokens, lens = again.batch(batch)
        assert len(batch) * (int(lens.max()) + 1) <= 200
        assert [TOKENIZER.decode(row[:n].tolist()) for row, n in zip(tokens, lens, strict=True)] == [
            LINES[line] for line in batch
        ]


def test_training_learns_and_a_killed_one_repeats_it(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_from_dict(SETTINGS, "tests")
    train_language_model(config, TOKENIZER, [text], [text], tmp_path / "whole")
    metrics = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert len(metrics) == 4 and metrics[-1]["dev_perplexity"] < 2.0 < metrics[0]["train_perplexity"]
    bundle = load_language_model(tmp_path / "whole" / "best.safetensors")
    lines, _ = encode_text([text], TOKENIZER, tmp_path / "encoded", 400)
    found = perplexity(bundle.model, lines, 200, torch.device("cpu"))
    assert math.isclose(found, min(line["dev_perplexity"] for line in metrics), rel_tol=1e-6)

    # The same, killed after a checkpoint in the middle of an epoch.
    from asrkit.training import language_model as module

    save = module._Loop._save
    saved: list[str] = []

    def killed(loop: module._Loop, name: module.CheckpointName) -> None:
        save(loop, name)
        saved.append(name.stem)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module._Loop, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_language_model(config, TOKENIZER, [text], [text], tmp_path / "cut")
    assert "step" in saved[-1]
    monkeypatch.setattr(module._Loop, "_save", save)
    train_language_model(config, TOKENIZER, [text], [text], tmp_path / "cut")
    resumed = load_language_model(tmp_path / "cut" / "best.safetensors").model.state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in bundle.model.state_dict().items())


def test_a_signal_saves_the_updates_that_are_done(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asrkit.training import language_model as module

    config = config_from_dict(SETTINGS, "tests")
    train_language_model(config, TOKENIZER, [text], [text], tmp_path / "whole")
    update, done = module._Loop._update, []

    def interrupted(loop: module._Loop, *args: Any) -> None:
        update(loop, *args)
        done.append(loop.state.step)
        if len(done) == 2:  # before the first checkpoint is due
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module._Loop, "_update", interrupted)
    with pytest.raises(Stopped, match="SIGINT"):
        train_language_model(config, TOKENIZER, [text], [text], tmp_path / "cut")
    assert len(done) == 2
    train_language_model(config, TOKENIZER, [text], [text], tmp_path / "cut")
    whole, resumed = (load_language_model(tmp_path / name / "best.safetensors") for name in ("whole", "cut"))
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())


def test_kinds_of_models_are_told_apart(text: Path, tmp_path: Path) -> None:
    config = config_from_dict({**SETTINGS, "train": {**SETTINGS["train"], "num_epochs": 1}}, "tests")
    train_language_model(config, TOKENIZER, [text], [text], tmp_path / "lm")
    path = tmp_path / "lm" / "best.safetensors"
    with pytest.raises(UserError, match="is a language model, not a recognizer"):
        load_model(path)
    assert json.loads((tmp_path / "lm" / "text" / "train" / "text.json").read_text())["left_out"] == 2


def test_text_that_fits_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("xyz\n")
    with pytest.raises(UserError, match="no usable line"):
        encode_text([tmp_path / "text.txt"], TOKENIZER, tmp_path / "encoded", 400)
    with pytest.raises(UserError, match="no text at"):
        encode_text([tmp_path / "none.txt"], TOKENIZER, tmp_path / "encoded", 400)


def test_a_folder_is_of_one_text(text: Path, tmp_path: Path) -> None:
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | {"num_epochs": 1}}, "tests")
    train_language_model(config, TOKENIZER, [text], [text], tmp_path / "lm")
    with gzip.open(text, "at", encoding="utf-8") as file:
        file.write("\nAB AB AB AB AB")
    with pytest.raises(UserError, match="a training on other text; choose another --exp-dir"):
        train_language_model(config, TOKENIZER, [text], [text], tmp_path / "lm")


def test_text_refused_before_any_update_can_be_changed(text: Path, tmp_path: Path) -> None:
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | {"num_epochs": 1}}, "tests")
    with pytest.raises(UserError, match="no text at"):
        train_language_model(config, TOKENIZER, [tmp_path / "tpyo.txt"], [text], tmp_path / "lm")
    train_language_model(config, TOKENIZER, [text], [text], tmp_path / "lm")
    assert (tmp_path / "lm" / "best.safetensors").exists()


def test_half_precision_without_scaling_is_refused(text: Path, tmp_path: Path) -> None:
    config = config_from_dict({"train": {"autocast": "fp16"}}, "tests")
    with pytest.raises(UserError, match=r"set train\.autocast=auto, bf16 or none"):
        train_language_model(config, TOKENIZER, [text], [text], tmp_path / "lm")
