"""Quantizing trained models without training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from asrkit.bundle.build import build_language_model, build_transducer
from asrkit.bundle.model_file import (
    ModelBundle,
    load_language_model,
    load_recognizer,
    save_language_model,
    save_recognizer,
)
from asrkit.cli.main import cli
from asrkit.config_files import config_from_dict
from asrkit.data.folder import DataFolder
from asrkit.errors import UserError
from asrkit.quantization.qat import QuantizedLinear, quantizers
from asrkit.quantization.quantizers import Quantizer, calibrated
from asrkit.text.tokenizer import train_tokenizer
from asrkit.training.objective import TransducerObjective
from tests.conftest import ROOT, Workshop, tiny_bundle

INT8 = ROOT / "conf" / "quantize" / "int8.yaml"


def quantize(source: Path, data_dir: Path, target: Path, *more: str) -> str:
    """What ``asrkit quantize`` printed or refused."""
    words = ["quantize", "--model", source, "--data-dir", data_dir, "--output", target, "--config", INT8, *more]
    done = CliRunner().invoke(cli, list(map(str, words)))
    if done.exception:
        assert isinstance(done.exception, UserError), done.output
        return f"refused: {done.exception}"
    return done.output


@pytest.fixture
def float_model(workshop: Workshop, tmp_path: Path) -> Path:
    bundle = tiny_bundle()
    bundle.tokenizer = DataFolder(workshop.data_dir).load_tokenizer()
    torch.manual_seed(0)
    bundle.model = build_transducer(bundle.config, bundle.tokenizer.vocab_size).eval()
    objective = TransducerObjective(bundle.config.loss, bundle.model)
    save_recognizer(tmp_path / "float.safetensors", bundle, objective.state_dict())
    return tmp_path / "float.safetensors"


def test_eight_bits_change_little_and_bounds_are_those_of_the_data(
    workshop: Workshop, float_model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "int8.safetensors"
    assert "quantized" in quantize(float_model, workshop.data_dir, target)
    plain, quantized = load_recognizer(float_model).model, load_recognizer(target).model
    assert calibrated(quantizers(quantized)) and not quantizers(plain)
    layer = quantized.get_submodule("joiner.encoder_proj")
    assert isinstance(layer, QuantizedLinear) and isinstance(layer.weight_quantizer, Quantizer)
    assert torch.equal(layer.weight_quantizer.high, layer.weight.abs().amax(dim=1))
    torch.manual_seed(0)
    x, lens = torch.randn(2, 40, 16), torch.tensor([40, 24])
    with torch.no_grad():
        (a, _), (b, _) = plain.encoder(x, lens), quantized.encoder(x, lens)
    assert 0 < (a - b).norm() / a.norm() < 0.1
    # What a training that starts from it needs is there too.
    heads = {name for name in load_file(float_model) if name.startswith("objective.")}
    assert heads and heads <= set(load_file(target))
    # Done before; then other settings; then a model that is quantized already.
    assert "done before" in quantize(float_model, workshop.data_dir, target)
    printed = quantize(float_model, workshop.data_dir, target, "--utterances", "3")
    assert printed.startswith("refused") and "--utterances=64, now it is 3" in printed
    printed = quantize(target, workshop.data_dir, tmp_path / "twice.safetensors")
    assert (
        printed.startswith("refused")
        and "quantized already" in printed
        and not (tmp_path / "twice.safetensors").exists()
    )


def test_a_language_model_is_quantized_on_transcripts(workshop: Workshop, tmp_path: Path) -> None:
    tokenizer = DataFolder(workshop.data_dir).load_tokenizer()
    config = config_from_dict({"lm": {"hidden_dim": 8, "num_layers": 1, "bottleneck_dim": 4}}, "tests")
    torch.manual_seed(0)
    lm = build_language_model(config, tokenizer.vocab_size).eval()
    save_language_model(tmp_path / "lm.safetensors", ModelBundle(lm, config, tokenizer))
    assert "quantized" in quantize(tmp_path / "lm.safetensors", workshop.data_dir, tmp_path / "int8.safetensors")
    quantized = load_language_model(tmp_path / "int8.safetensors").model
    tokens = torch.tensor([tokenizer.encode("ONE TWO THREE")])
    with torch.no_grad():
        assert 0 < (quantized(tokens) - lm(tokens)).abs().max() < 0.02
    exported = tmp_path / "exported.safetensors"
    done = CliRunner().invoke(cli, ["export", "--model", str(tmp_path / "int8.safetensors"), "--output", str(exported)])
    assert done.exit_code == 0 and "total" in done.output
    assert exported.stat().st_size < (tmp_path / "int8.safetensors").stat().st_size
    with torch.no_grad():
        assert torch.equal(load_language_model(exported).model(tokens), quantized(tokens))


def test_other_symbols_and_unused_layers_are_refused(workshop: Workshop, float_model: Path, tmp_path: Path) -> None:
    printed = quantize(float_model, tmp_path / "nothing", tmp_path / "int8.safetensors")
    assert printed.startswith("refused") and "is missing" in printed
    other = load_recognizer(float_model)
    other.tokenizer = train_tokenizer(["NOTHING ELSE"], "char", 0)
    other.model = build_transducer(other.config, other.tokenizer.vocab_size)
    save_recognizer(tmp_path / "other.safetensors", other)
    printed = quantize(tmp_path / "other.safetensors", workshop.data_dir, tmp_path / "int8.safetensors")
    assert printed.startswith("refused") and "other symbols than the model" in printed
    dead = load_recognizer(float_model)
    with torch.no_grad():
        dead.model.get_parameter("joiner.encoder_proj.weight").zero_()
    save_recognizer(tmp_path / "dead.safetensors", dead)
    printed = quantize(tmp_path / "dead.safetensors", workshop.data_dir, tmp_path / "int8.safetensors")
    assert printed.startswith("refused") and "joiner.encoder_proj.weight_quantizer has no bounds" in printed
    assert not (tmp_path / "int8.safetensors").exists()
