"""The settings of the rewrite ``quantize``: the quantized layers and their quantizers."""

from __future__ import annotations

from dataclasses import dataclass

from asrkit.settings import section, setting


@dataclass
class QuantizerConfig:
    """A quantizer of weights or activations."""

    type: str = setting(
        "none",
        "Source of the bounds: `sawb_plus` is `sawb` with an unclipped gradient, `pact_plus` is `pact` that also "
        "learns from the rounding, `fixed` is bound-aware clipping.",
        choices=("none", "max", "sawb", "sawb_plus", "pact", "pact_plus", "fixed"),
    )
    bits: int = setting(4, "Bits of a code.", choices=(8, 4, 3, 2))
    zero_aligned: bool = setting(True, "Use one level less than the bits allow, so that zero is a level.")
    per: str = setting("tensor", "Part of the weights that has its own bounds.", choices=("tensor", "gate", "channel"))
    bound: float = setting(1.0, "Bound of `fixed`, and initial bound of `pact`.", least=1e-6)


@dataclass
class LayerPolicyConfig:
    """Quantization of the layers whose names match a pattern."""

    pattern: str = setting(
        "",
        "Pattern of the layers' names, with `*` for any part: `encoder.layers.*`. A layer has the first policy whose "
        "pattern its name matches; other layers are not quantized.",
    )
    weights: QuantizerConfig = section(QuantizerConfig)
    inputs: QuantizerConfig = section(QuantizerConfig)
    hidden: QuantizerConfig = section(QuantizerConfig)
    """Of an LSTM's state in the recurrent product."""


@dataclass
class QuantizationConfig:
    """Policies of layers."""

    layers: dict[str, LayerPolicyConfig] = setting({}, "Policies by a name of your choice.")
