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
import yaml

from asrkit.bundle.model_file import load_language_model, load_recognizer
from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.data.text_lines import encode_text, plan_text_epoch
from asrkit.distributed.learners import AllReduce
from asrkit.errors import UserError
from asrkit.files import write_json
from asrkit.scoring.experiment import read_metrics
from asrkit.text.tokenizer import CharTokenizer
from asrkit.training.checkpoint import CheckpointName
from asrkit.training.language_model import perplexity, train_language_model
from asrkit.training.loop import Loop
from asrkit.training.stopping import Stopped
from tests.conftest import run_cli

TOKENIZER = CharTokenizer(("<blank>", "▁", "A", "B", "C"))
LINES = ["AB AB", "ABAB AB", "AB", "AB AB AB"] * 40
SETTINGS: dict[str, Any] = {
    "lm": {"hidden_dim": 16, "bottleneck_dim": 8, "batch_symbols": 200, "dropout": 0.1},
    "train": {
        "num_epochs": 4,
        "checkpoint_every_steps": 3,
        "device": "cpu",
        "schedule": {"type": "one_cycle", "peak_lr": 2e-2, "warmup_epochs": 1},
    },
}


def train(config: Config, text: list[Path], exp_dir: Path, dev: list[Path] | None = None) -> None:
    """Trains a language model on text, and measures it on the same or on ``dev``."""
    tokenizer = exp_dir.parent / "tokenizer.json"
    write_json(tokenizer, TOKENIZER.to_dict())
    train_language_model(config, tokenizer, text, dev or text, exp_dir)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join([*LINES, "AXB", "", "A" * 500]))
    return path


def test_lines_are_encoded_once_and_what_does_not_fit_is_counted(text: Path, tmp_path: Path) -> None:
    lines, excluded = encode_text([text], TOKENIZER, tmp_path / "encoded", 400)
    assert len(lines) == len(LINES) and (excluded.too_long, excluded.unknown) == (1, 1)
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
    train(config, [text], tmp_path / "whole")
    metrics = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert len(metrics) == 4 and metrics[-1]["dev_perplexity"] < 2.0 < metrics[0]["train_perplexity"]
    bundle = load_language_model(tmp_path / "whole" / "best.safetensors")
    lines, _ = encode_text([text], TOKENIZER, tmp_path / "encoded", 400)
    found = perplexity(bundle.model, lines, 200, AllReduce())
    assert math.isclose(found, min(line["dev_perplexity"] for line in metrics), rel_tol=1e-6)

    # The same, killed after a checkpoint in the middle of an epoch.
    save = Loop._save
    saved: list[str] = []

    def killed(loop: Loop, name: CheckpointName) -> None:
        save(loop, name)
        saved.append(name.stem)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, [text], tmp_path / "cut")
    assert "step" in saved[-1]
    monkeypatch.setattr(Loop, "_save", save)
    train(config, [text], tmp_path / "cut")
    resumed = load_language_model(tmp_path / "cut" / "best.safetensors").model.state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in bundle.model.state_dict().items())


def test_a_signal_saves_the_updates_that_are_done(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_dict(SETTINGS, "tests")
    train(config, [text], tmp_path / "whole")
    update, done = Loop._update, []

    def interrupted(loop: Loop, *args: Any) -> None:
        update(loop, *args)
        done.append(loop.state.step)
        if len(done) == 2:  # before the first checkpoint is due
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Loop, "_update", interrupted)
    with pytest.raises(Stopped, match="SIGINT"):
        train(config, [text], tmp_path / "cut")
    assert len(done) == 2
    train(config, [text], tmp_path / "cut")
    whole, resumed = (load_language_model(tmp_path / name / "best.safetensors") for name in ("whole", "cut"))
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())


def test_kinds_of_models_are_told_apart(text: Path, tmp_path: Path) -> None:
    config = config_from_dict({**SETTINGS, "train": {**SETTINGS["train"], "num_epochs": 1}}, "tests")
    train(config, [text], tmp_path / "lm")
    path = tmp_path / "lm" / "best.safetensors"
    with pytest.raises(UserError, match="is a language model, not a recognizer"):
        load_recognizer(path)
    assert json.loads((tmp_path / "lm" / "text" / "train" / "excluded.json").read_text())["unknown"] == 1


def test_text_that_fits_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("xyz\n")
    with pytest.raises(UserError, match="no usable line"):
        encode_text([tmp_path / "text.txt"], TOKENIZER, tmp_path / "encoded", 400)
    with pytest.raises(UserError, match="no text at"):
        encode_text([tmp_path / "none.txt"], TOKENIZER, tmp_path / "encoded", 400)


def test_a_folder_is_of_one_text(text: Path, tmp_path: Path) -> None:
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | {"num_epochs": 1}}, "tests")
    train(config, [text], tmp_path / "lm")
    with gzip.open(text, "at", encoding="utf-8") as file:
        file.write("\nAB AB AB AB AB")
    with pytest.raises(UserError, match=r"outputs of .*text=.*; choose another --exp-dir"):
        train(config, [text], tmp_path / "lm")


def test_text_refused_before_any_update_can_be_changed(text: Path, tmp_path: Path) -> None:
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | {"num_epochs": 1}}, "tests")
    with pytest.raises(UserError, match="no text at"):
        train(config, [tmp_path / "tpyo.txt"], tmp_path / "lm", dev=[text])
    train(config, [text], tmp_path / "lm")
    assert (tmp_path / "lm" / "best.safetensors").exists()


@pytest.mark.parametrize("settings", [{"accumulation_steps": 3}, {"optimizer": {"type": "sgd", "nesterov": True}}])
def test_language_models_train_with_all_that_the_loop_has(text: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | settings}, "tests")
    if config.train.optimizer.type == "sgd":
        config.train.schedule.peak_lr = 1.0
    train(config, [text], tmp_path / "lm")
    lines = read_metrics(tmp_path / "lm" / "metrics.jsonl")
    assert lines[-1]["dev_perplexity"] < lines[0]["dev_perplexity"] < 6
    assert lines[-1]["loss"]["cross_entropy"] == pytest.approx(math.log(lines[-1]["train_perplexity"]))


def test_accumulation_and_processes_change_nothing(text: Path, tmp_path: Path) -> None:
    values = SETTINGS | {"lm": SETTINGS["lm"] | {"dropout": 0.0}}
    weights = []
    for steps in (1, 3):
        config = config_from_dict(values | {"train": SETTINGS["train"] | {"accumulation_steps": steps}}, "tests")
        train(config, [text], tmp_path / str(steps))
        weights.append(load_language_model(tmp_path / str(steps) / "best.safetensors").model.state_dict())
    write_json(tmp_path / "tokenizer.json", TOKENIZER.to_dict())
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(values))
    done = run_cli(
        "train-lm",
        "--data-dir",
        tmp_path,
        "--text",
        text,
        "--dev-text",
        text,
        "--exp-dir",
        tmp_path / "two",
        "--config",
        tmp_path / "lm.yaml",
        "--processes",
        "2",
    )
    assert done.returncode == 0, done.stderr
    weights.append(load_language_model(tmp_path / "two" / "best.safetensors").model.state_dict())
    for other in weights[1:]:
        assert max((other[name] - tensor).abs().max().item() for name, tensor in weights[0].items()) < 1e-4


def test_language_models_stop_early(text: Path, tmp_path: Path) -> None:
    settings = {"early_stop_epochs": 2, "num_epochs": 9}
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | settings}, "tests")
    config.train.schedule.initial_lr = config.train.schedule.peak_lr = 0.0
    train(config, [text], tmp_path / "lm")
    assert len(read_metrics(tmp_path / "lm" / "metrics.jsonl")) == 3


def test_the_best_epoch_has_the_settings_of_the_last_run(text: Path, tmp_path: Path) -> None:
    """Else a longer training whose best epoch is an early one would never be done."""
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | {"num_epochs": 1}}, "tests")
    train(config, [text], tmp_path / "lm")
    config.train.num_epochs = 2
    config.train.schedule.peak_lr = config.train.schedule.initial_lr = 50.0  # the second epoch is worse
    (tmp_path / "lm" / "inputs.json").unlink()
    (tmp_path / "lm" / "config.yaml").unlink()
    (tmp_path / "lm" / "best.safetensors").unlink()
    train(config, [text], tmp_path / "lm")
    lines = read_metrics(tmp_path / "lm" / "metrics.jsonl")
    assert lines[1]["dev_perplexity"] > lines[0]["dev_perplexity"]
    bundle = load_language_model(tmp_path / "lm" / "best.safetensors")
    assert bundle.config.train.num_epochs == 2


def test_more_processes_than_lines_in_an_update(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(["AB " * 30, "A", "B", "C AB"]))
    write_json(tmp_path / "tokenizer.json", TOKENIZER.to_dict())
    done = run_cli(
        "train-lm",
        "--data-dir",
        tmp_path,
        "--text",
        tmp_path / "text.txt",
        "--dev-text",
        tmp_path / "text.txt",
        "--exp-dir",
        tmp_path / "lm",
        "--processes",
        "2",
        "lm.hidden_dim=8",
        "lm.bottleneck_dim=4",
        "lm.batch_symbols=10",
        "train.num_epochs=1",
        "train.device=cpu",
    )
    assert done.returncode == 0, done.stderr


def test_text_of_version_1_is_compared(text: Path, tmp_path: Path) -> None:
    config = config_from_dict(SETTINGS | {"train": SETTINGS["train"] | {"num_epochs": 1}}, "tests")
    train(config, [text], tmp_path / "lm")
    (tmp_path / "lm" / "inputs.json").unlink()
    stated = [[str(text.resolve()), text.stat().st_size]]
    kept = {"symbols": TOKENIZER.to_dict(), "text": stated, "dev_text": stated}
    write_json(tmp_path / "lm" / "text.json", kept)
    train(config, [text], tmp_path / "lm")
    (tmp_path / "lm" / "inputs.json").unlink()
    write_json(tmp_path / "lm" / "text.json", kept | {"text": [[str(text.resolve()), 1]]})
    with pytest.raises(UserError, match="holds a training on other text; choose another"):
        train(config, [text], tmp_path / "lm")
