from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from asrkit.bundle.build import REWRITES, build_transducer
from asrkit.bundle.model_file import (
    ModelBundle,
    load_language_model,
    load_recognizer,
    save_language_model,
    save_recognizer,
)
from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.config_losses import LossConfig
from asrkit.errors import UserError
from asrkit.export.recognizer import export_model
from asrkit.models.language_model import TransformerLanguageModel
from asrkit.models.transducer import Transducer
from asrkit.training.objective import TransducerObjective
from tests.conftest import tiny_bundle


def test_a_model_file_is_enough(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    save_recognizer(tmp_path / "m.safetensors", bundle)
    loaded = load_recognizer(tmp_path / "m.safetensors")
    assert loaded.config == bundle.config and loaded.tokenizer == bundle.tokenizer
    assert torch.equal(loaded.statistics["global"].mean, bundle.statistics["global"].mean)
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    assert not loaded.model.training and all(p.requires_grad for p in loaded.model.parameters())


def test_every_architecture_is_built_without_data_first(tmp_path: Path) -> None:
    encoders: list[dict[str, Any]] = [
        {"type": "dssformer", "dss": {"state_dim": 4, "init": "hippo"}},
        {"type": "dssformer", "dss": {"state_dim": 4, "init": "exp_random", "form": "softmax", "kernel_length": 9}},
        {"type": "conformer", "subsampling": 8},
        {"type": "conformer", "subsampling": 1},
        {"type": "blstm", "blstm": {"num_layers": 2, "cells": 5}},
    ]
    for n, encoder in enumerate(encoders):
        small = {"num_layers": 1, "d_model": 8, "num_heads": 2, "subsampling_channels": 4}
        values = {"features": {"num_mel_bins": 16}, "model": {"encoder": {"conformer": small} | encoder}}
        config = config_from_dict(values, "tests")
        torch.manual_seed(n)
        tokenizer = tiny_bundle().tokenizer
        model = build_transducer(config, tokenizer.vocab_size).eval()
        path = tmp_path / f"{n}.safetensors"
        save_recognizer(path, ModelBundle(model, config, tokenizer))
        loaded = load_recognizer(path).model
        assert not any(tensor.is_meta for tensor in loaded.state_dict().values())
        x, lens = torch.randn(2, 40, 16), torch.tensor([40, 22])
        with torch.no_grad():
            assert torch.equal(loaded.encoder(x, lens)[0], model.encoder(x, lens)[0])


def test_weights_that_are_shared_stay_shared(tmp_path: Path) -> None:
    tokenizer = tiny_bundle().tokenizer
    config = config_from_dict({"lm": {"type": "transformer", "hidden_dim": 8, "num_heads": 2}}, "tests")
    model = TransformerLanguageModel(tokenizer.vocab_size, 8, 1, 2, config.lm.max_symbols + 1)
    save_language_model(tmp_path / "lm.safetensors", ModelBundle(model, config, tokenizer))
    loaded = load_language_model(tmp_path / "lm.safetensors").model
    assert isinstance(loaded, TransformerLanguageModel)
    assert loaded.out.weight is loaded.embedding.weight
    assert len(list(loaded.parameters())) == len(list(model.parameters()))
    with pytest.raises(UserError, match="is a language model, not a recognizer"):
        load_recognizer(tmp_path / "lm.safetensors")
    save_recognizer(tmp_path / "m.safetensors", tiny_bundle())
    with pytest.raises(UserError, match="is not a language model"):
        load_language_model(tmp_path / "m.safetensors")


class Doubled(nn.Module):
    """A linear map whose result is doubled, with a tensor more than that one."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain
        self.factor = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        return self.factor * self.plain(x)


def test_a_rewritten_model_is_read_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def double(model: nn.Module, config: Config) -> None:
        assert isinstance(model, Transducer)
        assert isinstance(model.joiner.out, nn.Linear)
        model.joiner.out = Doubled(model.joiner.out)  # type: ignore[assignment]

    monkeypatch.setitem(REWRITES, "double", double)
    bundle = tiny_bundle()
    double(bundle.model, bundle.config)
    bundle.config.rewrites = ["double"]
    with torch.no_grad():
        bundle.model.get_parameter("joiner.out.factor").fill_(3.0)
    save_recognizer(tmp_path / "m.safetensors", bundle)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"])["rewrites"] == ["double"]
    loaded = load_recognizer(tmp_path / "m.safetensors").model
    x, y = torch.randn(1, 3, 16), torch.tensor([[1, 2]])
    with torch.no_grad():
        expected = bundle.model.joiner(x, bundle.model.predictor(y))
        assert torch.equal(loaded.joiner(x, loaded.predictor(y)), expected)


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    bundle.config.model.encoder.conformer.d_model = 32
    save_recognizer(tmp_path / "lies.safetensors", bundle)
    with pytest.raises(UserError, match=r"another architecture: '\S+' is \(.*\) there and \(.*\) here"):
        load_recognizer(tmp_path / "lies.safetensors")
    with pytest.raises(UserError, match="no model file at"):
        load_recognizer(tmp_path / "none.safetensors")


def test_files_that_are_no_models_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_recognizer(path, tiny_bundle())
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="may be truncated"):
        load_recognizer(tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not an asrkit model"):
        load_recognizer(tmp_path / "foreign.safetensors")
    save_file(load_file(path), tmp_path / "later.safetensors", {"asrkit_format": "99"})
    with pytest.raises(UserError, match="not an asrkit model of format"):
        load_recognizer(tmp_path / "later.safetensors")


def test_a_bit_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_recognizer(path, tiny_bundle())
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in (*range(8, start, 41), start, (start + len(content)) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged|not a readable"):
            load_recognizer(path)


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    for n in range(5):
        save_recognizer(tmp_path / f"{n}.safetensors", tiny_bundle())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("name", ["joiner.out.weight", "statistics"])
def test_numbers_that_are_not_finite_are_refused(name: str, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    tensor = bundle.statistics["global"].std if name == "statistics" else bundle.model.state_dict()[name]
    tensor.view(-1)[3] = float("nan")
    save_recognizer(tmp_path / "m.safetensors", bundle)
    with pytest.raises(UserError, match="not finite"):
        load_recognizer(tmp_path / "m.safetensors")


def test_a_model_larger_than_its_file_is_not_built(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    bundle.config.model.encoder.conformer.num_layers = 900
    save_recognizer(tmp_path / "m.safetensors", bundle)
    with pytest.raises(UserError, match="num_layers is 900, but there are"):
        load_recognizer(tmp_path / "m.safetensors")


def test_what_ships_lacks_what_only_training_needs(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    objective = TransducerObjective(LossConfig(), bundle.model)
    save_recognizer(tmp_path / "checkpoint.safetensors", bundle, objective.state_dict())
    export_model(tmp_path / "checkpoint.safetensors", tmp_path / "model.safetensors")
    kept, shipped = (set(load_file(tmp_path / f"{name}.safetensors")) for name in ("checkpoint", "model"))
    assert kept - shipped == {"objective.ctc_head.weight", "objective.ctc_head.bias"} and shipped < kept


def test_a_loaded_model_does_not_change_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_recognizer(path, tiny_bundle())
    loaded = load_recognizer(path).model
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    with open(path, "r+b") as file:
        file.truncate(10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_others_can_read_a_model_where_they_can_read_any_file(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    save_recognizer(tmp_path / "m.safetensors", tiny_bundle())
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode
