"""Quantized models on codes compute what they compute in floating point."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from asrkit.bundle.build import build_language_model, build_transducer
from asrkit.config_files import config_from_dict
from asrkit.config_quantization import LayerPolicyConfig, QuantizerConfig
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.greedy import greedy_search
from asrkit.models.convolution import DepthwiseConv
from asrkit.models.language_model import LstmLanguageModel
from asrkit.models.lstm import LstmLayer
from asrkit.quantization import integer, kernels
from asrkit.quantization.integer import IntegerLinear, IntegerLstmLayer, use_integers
from asrkit.quantization.integer_steps import IntegerSteps
from asrkit.quantization.qat import (
    QuantizedDepthwiseConv,
    QuantizedLinear,
    QuantizedLstmLayer,
    calibrate,
    quantizers,
)
from asrkit.quantization.quantizers import PactQuantizer
from tests.quantization.test_qat import tiny

PATHS = [*kernels.available(), None]
LM = {
    "lm": {"hidden_dim": 16, "num_layers": 2, "bottleneck_dim": 4},
    "rewrites": ["quantize"],
    "quantization": {
        "layers": {
            "all": {
                "pattern": "layers.*",
                "weights": {"type": "sawb_plus", "per": "gate"},
                "inputs": {"type": "fixed", "bound": 2.0},
                "hidden": {"type": "fixed"},
            }
        }
    },
}


def policy(bits: int, zero_aligned: bool = True) -> LayerPolicyConfig:
    fixed = QuantizerConfig("fixed", bits, zero_aligned, bound=1.5)
    return LayerPolicyConfig("*", QuantizerConfig("max", bits, zero_aligned, "gate"), fixed, fixed)


def pact(layer: nn.Module, upper: float, lower: float) -> None:
    """Sets learned bounds."""
    quantizer = layer.get_submodule("input_quantizer")
    assert isinstance(quantizer, PactQuantizer) and quantizer.lower is not None
    quantizer.upper.fill_(upper)
    quantizer.lower.fill_(lower)


def calibrated_lm() -> LstmLanguageModel:
    torch.manual_seed(0)
    lm = build_language_model(config_from_dict(LM, "tests"), 6)
    assert isinstance(lm, LstmLanguageModel)
    with calibrate(lm):
        lm(torch.tensor([[2, 1, 3, 5]]))
    return lm.eval()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("bits", "zero_aligned"), [(8, True), (4, True), (4, False), (2, True)])
@pytest.mark.parametrize(("inputs", "hidden", "batch", "threads"), [(20, 48, 3, 2), (7, 5, 1, 1), (33, 64, 16, 2)])
def test_an_lstm(
    monkeypatch: pytest.MonkeyPatch,
    path: kernels.Instructions,
    bits: int,
    zero_aligned: bool,
    inputs: int,
    hidden: int,
    batch: int,
    threads: int,
) -> None:
    monkeypatch.setattr(kernels, "chosen", lambda: path)
    torch.manual_seed(0)
    layer = QuantizedLstmLayer(LstmLayer(inputs, hidden), policy(bits, zero_aligned))
    with calibrate(layer):
        layer.run(torch.randn(1, 1, inputs))
    layer.eval()
    x, state = torch.randn(6, batch, inputs), (torch.rand(batch, hidden), torch.randn(batch, hidden))
    owner = nn.ModuleList([layer])
    assert use_integers(owner) == ["0"]
    found = owner[0]
    assert isinstance(found, IntegerLstmLayer)
    before, kept = torch.get_num_threads(), [part.clone() for part in state]
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            expected, after = layer.run(x, state)
            out, (h, c) = found.run(x, state)
            step, _ = found.step(x[0], state)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    for a, b in ((out, expected), (h, after[0]), (c, after[1]), (step, expected[0])):
        assert torch.allclose(a, b, atol=2e-6)
    assert found.run(x[:0])[0].shape == (0, batch, hidden)
    assert found.run(x[:, :0])[0].shape == (len(x), 0, hidden)
    x[2, 0] = torch.nan
    broken = found.run(x)[0]
    assert broken[2:, 0].isnan().all() and not broken[:2].isnan().any() and not broken[:, 1:].isnan().any()


@pytest.mark.parametrize("path", PATHS)
def test_a_linear_layer_and_a_convolution(monkeypatch: pytest.MonkeyPatch, path: kernels.Instructions) -> None:
    monkeypatch.setattr(kernels, "chosen", lambda: path)
    torch.manual_seed(0)
    channels = LayerPolicyConfig("*", QuantizerConfig("sawb_plus", per="channel"), QuantizerConfig("pact", bound=2.0))
    linear, conv = QuantizedLinear(nn.Linear(20, 9), channels), QuantizedDepthwiseConv(DepthwiseConv(9, 5), channels)
    model, x = nn.Sequential(linear, conv), torch.randn(2, 11, 20)
    with calibrate(model), torch.no_grad():
        model(x)
        # Learned bounds are seldom symmetric.
        pact(linear, 2.3, -0.6)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        assert use_integers(model) == ["0", "1"]
        assert torch.allclose(model(x), expected, atol=1e-5)


def test_what_cannot_be_whole_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shifted = LayerPolicyConfig("*", QuantizerConfig("max"), QuantizerConfig("pact", zero_aligned=False))
    plain = LayerPolicyConfig("*", QuantizerConfig("max"), QuantizerConfig("none"))
    model = nn.Sequential(QuantizedLinear(nn.Linear(4, 4), shifted), QuantizedLinear(nn.Linear(4, 4), plain))
    with calibrate(model):
        model(torch.randn(3, 4))
    with torch.no_grad():
        pact(model[0], 1.0, -0.31)
    assert use_integers(model) == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "encoder",
    [
        {"type": "conformer"},
        {"type": "dssformer", "dss": {"state_dim": 4, "local_kernel": 3}},
        {"type": "blstm", "blstm": {"num_layers": 2, "cells": 5}},
    ],
)
def test_searches_find_the_same(
    monkeypatch: pytest.MonkeyPatch, path: kernels.Instructions, encoder: dict[str, Any]
) -> None:
    monkeypatch.setattr(kernels, "chosen", lambda: path)
    torch.manual_seed(0)
    model = build_transducer(tiny(encoder), 6)
    x, lens, y = torch.randn(2, 40, 16), torch.tensor([40, 24]), torch.tensor([[1, 2], [3, 1]])
    with calibrate(model):
        model.joiner(model.encoder(x, lens)[0], model.predictor(y))
    with torch.no_grad():
        model.joiner.out.weight.mul_(6)
        model.joiner.out.bias[0] -= 1.0
    model.eval()
    whole, lm = copy.deepcopy(model), calibrated_lm()
    other = copy.deepcopy(lm)
    assert len(use_integers(whole)) > 5 and not any(
        isinstance(module, (QuantizedLinear, QuantizedLstmLayer)) for module in whole.modules()
    )
    assert use_integers(other) == ["layers.0", "layers.1"]
    results = []
    for recognizer, language_model in ((model, lm), (whole, other)):
        with torch.no_grad():
            out = recognizer.encoder(x, lens)
        fusion = Fusion(FusionWeights(target=0.4, length=0.1), language_model)
        beam = beam_search(recognizer, *out, frame_shift_s=0.04, options=BeamOptions(beam=4), fusion=fusion)
        results.append((out[0], [h.tokens for h in greedy_search(recognizer, *out, frame_shift_s=0.04)], beam))
    (expected, greedy, beam), (found, integer_greedy, integer_beam) = results
    assert torch.allclose(found, expected, atol=1e-4) and any(greedy) and greedy == integer_greedy
    for a, b in zip(beam, integer_beam, strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        assert all(abs(h.score - g.score) < 1e-3 for h, g in zip(a, b, strict=True))


@pytest.mark.parametrize("path", PATHS)
def test_a_language_model_step_by_step(monkeypatch: pytest.MonkeyPatch, path: kernels.Instructions) -> None:
    monkeypatch.setattr(kernels, "chosen", lambda: path)
    lm, tokens = calibrated_lm(), torch.tensor([[2, 1, 3, 5], [4, 4, 1, 2]])
    with torch.no_grad():
        expected = lm(tokens)
    use_integers(lm)
    with torch.no_grad():
        assert torch.allclose(lm(tokens), expected, atol=1e-5)
    steps = IntegerSteps(lm)
    state, before = steps.initial_state(1), torch.tensor([0, 0])
    for u, read in enumerate([torch.tensor([0, 0]), *tokens.T]):
        found, state = steps.step(read, state, before)
        assert torch.allclose(found, expected[:, u], atol=1e-5)
        before = torch.tensor([0, 1])
    # One of three states is followed.
    several = tuple(torch.cat([part, part[:1]]) for part in state)
    one = steps.step(torch.tensor([3]), several, torch.tensor([1]))[0]
    assert torch.allclose(one, steps.step(torch.tensor([3]), tuple(part[1:] for part in state), torch.tensor([0]))[0])


def test_codes_take_the_place_of_the_weights() -> None:
    lm = calibrated_lm()
    use_integers(lm)
    assert not quantizers(lm) and not [name for name, _ in lm.named_parameters() if name.startswith("layers.")]
    layer = lm.layers[0]
    assert isinstance(layer, IntegerLstmLayer)
    if layer.hidden.path is not None:
        assert layer.hidden.packed.nbytes == layer.hidden.rows * layer.hidden.columns // 2
    assert isinstance(integer.torch_products(), type) and IntegerLinear(layer.hidden).out_features == 64
