"""The published counts and ratios of Fasoli et al. 2021 and 2022 for the 57 M transducer and its language models."""

from __future__ import annotations

import pytest
import torch

from asrkit.bundle.build import build_language_model, build_transducer
from asrkit.config_files import load_config
from asrkit.quantization.size import Size, size_by_part, size_table, total_size
from tests.conftest import ROOT

CONF = ROOT / "conf"
SYMBOLS = 46


def transducer(first_layer: bool = True) -> torch.nn.Module:
    config = load_config(CONF / "model" / "blstm_57m.yaml")
    policies = load_config(CONF / "quantize" / "int4_rnnt.yaml").quantization
    if not first_layer:
        del policies.layers["first_layer"]
        policies.layers["encoder"].pattern = "encoder.layers.[1-5].*"
    config.quantization, config.rewrites = policies, ["quantize"]
    with torch.device("meta"):
        return build_transducer(config, SYMBOLS)


def language_model(hidden_dim: int, num_layers: int, bottleneck: bool = True) -> torch.nn.Module:
    overrides = [f"lm.hidden_dim={hidden_dim}", f"lm.num_layers={num_layers}"]
    config = load_config(CONF / "quantize" / "int4_lm.yaml", overrides)
    if not bottleneck:
        del config.quantization.layers["bottleneck"]
    with torch.device("meta"):
        return build_language_model(config, SYMBOLS)


def total(*models: torch.nn.Module) -> Size:
    return total_size([size for model in models for size in size_by_part(model)])


def test_the_transducer_with_its_language_models_is_as_small_as_published() -> None:
    """Published with bottlenecks in full precision; ours have 8 bits there."""
    rnnt, source, external = transducer(), language_model(768, 1, False), language_model(2048, 2, False)
    assert total(rnnt).parameters == 57_164_282
    assert total(rnnt).ratio == pytest.approx(7.45, abs=0.005)
    every = total(rnnt, source, external)
    assert every.ratio == pytest.approx(7.46, abs=0.005)
    assert every.stored_bytes / 1e6 == pytest.approx(78.7, abs=0.05)
    assert total(rnnt, language_model(768, 1), language_model(2048, 2)).ratio == pytest.approx(7.67, abs=0.005)


def test_a_first_layer_in_full_precision_costs_much() -> None:
    size = total(transducer(first_layer=False))
    assert size.quantized / size.parameters == pytest.approx(0.9016, abs=5e-5)
    assert size.ratio == pytest.approx(4.74, abs=0.005)


def test_a_float_model_has_its_own_size() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
    assert size_by_part(model) == [Size("0", 8, 0, 32)]
    assert size_table(model).splitlines()[-1].split() == ["total", "8", "0.0", "%", "0.00", "0.00", "1.00"]
