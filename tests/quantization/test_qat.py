"""Models whose layers pass quantizers: what they compute, and that they are models like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asrkit.bundle.build import build_language_model, build_transducer
from asrkit.bundle.model_file import ModelBundle, load_recognizer, save_recognizer
from asrkit.config import Config
from asrkit.config_files import config_from_dict, load_config
from asrkit.config_quantization import LayerPolicyConfig, QuantizerConfig
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.errors import UserError
from asrkit.models.convolution import DepthwiseConv
from asrkit.models.language_model import LayerSteps, LstmLanguageModel, LstmSteps, steps_of
from asrkit.models.lstm import LstmLayer
from asrkit.quantization.qat import (
    QuantizedDepthwiseConv,
    QuantizedLinear,
    QuantizedLstmLayer,
    calibrate,
    quantize_layers,
    quantizers,
    restore_layers,
)
from asrkit.quantization.quantizers import PactQuantizer, Quantizer, calibrated
from tests.conftest import ROOT, TINY, tiny_bundle

POLICY = LayerPolicyConfig(
    weights=QuantizerConfig("sawb_plus", per="tensor"),
    inputs=QuantizerConfig("fixed", bound=1.5),
    hidden=QuantizerConfig("fixed"),
)
EVERYTHING: dict[str, Any] = {
    "quantization": {
        "layers": {
            "all": {
                "pattern": "*",
                "weights": {"type": "sawb_plus", "per": "channel"},
                "inputs": {"type": "max"},
                "hidden": {"type": "fixed"},
            }
        }
    },
    "rewrites": ["quantize"],
}


def tiny(encoder: dict[str, Any], **more: Any) -> Config:
    """The tiny experiment with another encoder, quantized."""
    merged = {**TINY["model"]["encoder"], **encoder}
    return config_from_dict(TINY | {"model": TINY["model"] | {"encoder": merged}} | EVERYTHING | more, "tests")


def test_a_linear_layer_multiplies_quantized_values() -> None:
    torch.manual_seed(0)
    plain, x = nn.Linear(6, 4), torch.randn(5, 6)
    layer = QuantizedLinear(plain, POLICY)
    found = layer(x)
    layer.eval()
    weight, inputs = layer.weight_quantizer(plain.weight), layer.input_quantizer(x)
    assert torch.equal(found, F.linear(inputs, weight, plain.bias))
    assert len(weight.unique()) <= 15 and len(inputs.unique()) <= 15
    # Codes and scales give the same product exactly, as integers.
    assert isinstance(layer.input_quantizer, Quantizer) and isinstance(layer.weight_quantizer, Quantizer)
    codes = layer.input_quantizer.codes(x) - 7, layer.weight_quantizer.codes(plain.weight) - 7
    scale = layer.input_quantizer.scales()[0] * layer.weight_quantizer.scales()[0]
    assert torch.allclose(found - plain.bias, (codes[0] @ codes[1].T) * scale, rtol=1e-5, atol=1e-6)


def test_a_depthwise_convolution_filters_quantized_values() -> None:
    torch.manual_seed(0)
    plain, x = DepthwiseConv(6, 3), torch.randn(2, 9, 6)
    layer = QuantizedDepthwiseConv(plain, POLICY)
    found = layer(x)
    layer.eval()
    same = DepthwiseConv(6, 3)
    same.conv.weight.data = layer.weight_quantizer(plain.conv.weight).detach()
    same.conv.bias = plain.conv.bias
    assert torch.allclose(found, same(layer.input_quantizer(x)), atol=1e-6)


def test_an_lstm_quantizes_all_but_the_cell_state() -> None:
    torch.manual_seed(0)
    plain, x = LstmLayer(5, 3), torch.randn(7, 2, 5)
    layer = QuantizedLstmLayer(plain, POLICY).eval()
    for weight, quantizer in (
        (plain.weight_ih, layer.input_weight_quantizer),
        (plain.weight_hh, layer.hidden_weight_quantizer),
    ):
        quantizer.train()(weight)
    layer.eval()
    w, u = layer.input_weight_quantizer(plain.weight_ih), layer.hidden_weight_quantizer(plain.weight_hh)
    h, c = torch.zeros(2, 3), torch.zeros(2, 3)
    expected = []
    for frame in layer.input_quantizer(x):
        gates = frame @ w.T + layer.hidden_quantizer(h) @ u.T + plain.bias_ih + plain.bias_hh
        i, f, g, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        expected.append(h)
    found, state = layer.run(x)
    assert torch.allclose(found, torch.stack(expected), atol=1e-6) and torch.allclose(state[1], c, atol=1e-6)
    assert len(state[1].unique()) == 6  # six numbers of the cell state, no two of a grid
    one = layer.initial_state(2)
    for t in range(7):
        out, one = layer.step(x[t], one)
        assert torch.allclose(out, found[t], atol=1e-6)


def test_without_quantizers_a_layer_is_what_it_was() -> None:
    torch.manual_seed(0)
    nothing = LayerPolicyConfig()
    x = torch.randn(7, 2, 5)
    lstm, linear, conv = LstmLayer(5, 3), nn.Linear(5, 4), DepthwiseConv(5, 3)
    assert torch.allclose(QuantizedLstmLayer(lstm, nothing).run(x)[0], lstm.run(x)[0], atol=1e-6)
    assert torch.equal(QuantizedLinear(linear, nothing)(x), linear(x))
    assert torch.allclose(QuantizedDepthwiseConv(conv, nothing)(x), conv(x), atol=1e-6)


@pytest.mark.parametrize(
    "encoder",
    [
        {"type": "conformer"},
        {"type": "dssformer", "dss": {"state_dim": 4, "local_kernel": 3}},
        {"type": "blstm", "blstm": {"num_layers": 2, "cells": 5}},
    ],
)
def test_every_model_is_quantized_saved_and_read(encoder: dict[str, Any], tmp_path: Path) -> None:
    config, tokenizer = tiny(encoder), tiny_bundle().tokenizer
    torch.manual_seed(0)
    model = build_transducer(config, tokenizer.vocab_size)
    found = {type(module) for module in model.modules()}
    assert QuantizedLstmLayer in found and nn.Linear not in found
    x, lens, y = torch.randn(2, 40, 16), torch.tensor([40, 24]), torch.tensor([[1, 2], [3, 1]])
    with calibrate(model):
        model.joiner(model.encoder(x, lens)[0], model.predictor(y))
    assert calibrated(quantizers(model))
    model.eval()
    save_recognizer(tmp_path / "m.safetensors", ModelBundle(model, config, tokenizer))
    loaded = load_recognizer(tmp_path / "m.safetensors").model
    with torch.no_grad():
        for a, b in zip(model.encoder(x, lens), loaded.encoder(x, lens), strict=True):
            assert torch.equal(a, b)
        # Padding changes nothing.
        alone = model.encoder(x[1:, :24], lens[1:])[0]
        assert torch.allclose(model.encoder(x, lens)[0][1:, : alone.shape[1]], alone, atol=1e-5)
    weights = {name: parameter for name, parameter in model.named_parameters() if "_quantizer" not in name}
    restore_layers(model)
    assert not quantizers(model)
    assert {name for name, _ in model.named_parameters()} == set(weights)
    plain = build_transducer(
        config_from_dict(
            TINY | {"model": TINY["model"] | {"encoder": {**TINY["model"]["encoder"], **encoder}}}, "tests"
        ),
        tokenizer.vocab_size,
    )
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval().encoder(x, lens)[0], model.eval().encoder(x, lens)[0])


def test_eight_bits_are_near_and_fewer_are_further() -> None:
    torch.manual_seed(0)
    x, lens = torch.randn(2, 40, 16), torch.tensor([40, 24])
    errors = []
    for bits in (8, 4, 3, 2):
        config = tiny({"type": "conformer"})
        for part in ("weights", "inputs", "hidden"):
            getattr(config.quantization.layers["all"], part).bits = bits
        config.quantization.layers["all"].weights.type = "max"
        torch.manual_seed(1)
        model = build_transducer(config, 6)
        with calibrate(model):
            model.encoder(x, lens)
        model.eval()
        quantized = model.encoder(x, lens)[0]
        restore_layers(model)
        plain = model.encoder(x, lens)[0]
        errors.append(((quantized - plain).norm() / plain.norm()).item())
    assert errors == sorted(errors) and errors[0] < 0.05 < errors[-1]


def test_calibration_fits_learned_bounds() -> None:
    policy = LayerPolicyConfig(inputs=QuantizerConfig("pact"))
    layer = QuantizedLinear(nn.Linear(8, 2), policy)
    quantizer = layer.input_quantizer
    assert isinstance(quantizer, PactQuantizer) and quantizer.lower is not None
    # Values of the 15 levels between 1.4 and -1.4 are rounded without error by those bounds alone, zeros say nothing.
    levels = torch.arange(-7, 8) / 5
    with calibrate(layer):
        layer(levels[:8].expand(3, 8))
        layer(torch.zeros(1, 8))
        layer(torch.cat([levels, levels[:1]]).view(2, 8))
    assert quantizer.lower.item() == pytest.approx(-1.4)
    before = quantizer.upper.item()
    layer(torch.full((1, 8), 9.0))
    assert quantizer.upper.item() == before
    # Of a normal distribution the bounds are near the best of 15 levels.
    torch.manual_seed(0)
    for name in ("lower", "upper"):
        getattr(quantizer, name).data.fill_(100.0)
    with calibrate(layer):
        for _ in range(3):
            layer(torch.randn(20000, 8))
    assert quantizer.upper.item() == pytest.approx(2.475, abs=0.2)
    assert quantizer.lower.item() == pytest.approx(-2.475, abs=0.2)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("int4_rnnt", ["model.encoder.type=blstm"]),
        ("int4_conformer", []),
        ("int4_conformer", ["model.encoder.type=dssformer", "model.encoder.dss.state_dim=8"]),
    ],
)
def test_the_policies_quantize_what_they_say(name: str, overrides: list[str]) -> None:
    config = load_config(ROOT / "conf" / "quantize" / f"{name}.yaml", overrides)
    with torch.device("meta"):
        model = build_transducer(config, 30)
    kinds = {n: type(module) for n, module in model.named_modules()}
    assert kinds["predictor.layers.0"] is QuantizedLstmLayer
    assert kinds["joiner.out"] is nn.Linear
    matrices = [n for n, kind in kinds.items() if n.startswith("encoder.") and kind in (nn.Linear, LstmLayer)]
    assert matrices == ([] if name == "int4_rnnt" else ["encoder.subsample.proj"])


def test_a_quantized_language_model_fuses_as_it_reads_lines() -> None:
    policy = {
        "pattern": "*",
        "weights": {"type": "sawb_plus"},
        "inputs": {"type": "fixed", "bound": 2.0},
        "hidden": {"type": "fixed"},
    }
    values = {
        "lm": {"hidden_dim": 8, "num_layers": 2, "bottleneck_dim": 4},
        "rewrites": ["quantize"],
        "quantization": {"layers": {"all": policy}},
    }
    torch.manual_seed(0)
    lm = build_language_model(config_from_dict(values, "tests"), 6)
    assert isinstance(lm, LstmLanguageModel)
    tokens = torch.tensor([[2, 1, 3, 5]])
    with calibrate(lm):
        lm(tokens)
    lm.eval()
    steps = steps_of(lm)
    assert isinstance(steps, LayerSteps)
    state, before = steps.initial_state(1), torch.tensor([0])
    for u, token in enumerate([0, 2, 1, 3, 5]):
        found, state = steps.step(torch.tensor([token]), state, before)
        assert torch.allclose(found[0], lm(tokens)[0, u], atol=1e-5)
    assert len(Fusion(FusionWeights(target=0.3), lm).initial_state(2)) == steps.num_states == 4
    restore_layers(lm)
    assert isinstance(steps_of(lm), LstmSteps)


def test_policies_that_fit_nothing_are_named() -> None:
    with pytest.raises(UserError, match="rewrites: quantize needs policies"):
        build_transducer(config_from_dict(TINY | {"rewrites": ["quantize"]}, "tests"), 6)
    config = tiny({"type": "conformer"})
    config.quantization.layers["all"].pattern = "encodr.*"
    with pytest.raises(UserError, match=r"layers\.all: no layer that can be quantized has a name like 'encodr\.\*'"):
        build_transducer(config, 6)
    for part, type in (("weights", "pact"), ("inputs", "sawb")):
        config = tiny({"type": "conformer"})
        getattr(config.quantization.layers["all"], part).type = type
        with pytest.raises(UserError, match=f"{type} is for"):
            build_transducer(config, 6)
    config = tiny({"type": "conformer"})
    config.quantization.layers["all"].weights.bits = 3
    with pytest.raises(UserError, match="no SAWB coefficients for 7 levels; set zero_aligned: false"):
        quantize_layers(nn.Sequential(nn.Linear(2, 2)), config)


def test_a_transformer_language_model_is_refused() -> None:
    values = {"lm": {"type": "transformer", "hidden_dim": 8, "num_heads": 2}} | EVERYTHING
    with pytest.raises(UserError, match=r"only lm\.type=lstm can be quantized"):
        build_language_model(config_from_dict(values, "tests"), 6)


def test_connections_are_dropped_after_quantizing() -> None:
    """Dropping first would widen the bounds, since what stays is scaled."""
    torch.manual_seed(0)
    layer = QuantizedLstmLayer(LstmLayer(5, 8), POLICY)
    seen: list[torch.Tensor] = []

    def drop(weight: torch.Tensor) -> torch.Tensor:
        seen.append(weight)
        return F.dropout(weight, 0.25)

    x = torch.randn(3, 2, 5)
    layer.run(x, drop=drop)
    quantizer = layer.hidden_weight_quantizer
    assert isinstance(quantizer, Quantizer)
    bound = quantizer.high.clone()
    assert len(seen[0].unique()) <= 15
    layer.run(x)
    assert torch.equal(quantizer.high, bound)


def test_an_lstm_trains_with_running_maxima() -> None:
    largest = QuantizerConfig("max", bits=8)
    layer = QuantizedLstmLayer(LstmLayer(5, 3), LayerPolicyConfig(weights=largest, inputs=largest, hidden=largest))
    layer.run(torch.randn(7, 2, 5))[0].sum().backward()
    assert layer.weight_hh.grad is not None and layer.weight_hh.grad.abs().sum() > 0
