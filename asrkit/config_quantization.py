"""Which layers are quantized, and how: the settings of the rewrite ``quantize``."""

from __future__ import annotations

from dataclasses import dataclass

from asrkit.settings import section, setting


@dataclass
class QuantizerConfig:
    """A quantizer of weights or activations."""

    type: str = setting(
        "none",
        "Where its bounds come from: `sawb_plus` is `sawb` whose gradient is not clipped, `pact_plus` is `pact` that "
        "learns from the rounding too, `fixed` is bound-aware clipping.",
        choices=("none", "max", "sawb", "sawb_plus", "pact", "pact_plus", "fixed"),
    )
    bits: int = setting(4, "Of a code.", choices=(8, 4, 3, 2))
    zero_aligned: bool = setting(True, "One level less than the bits allow, so that zero is one.")
    per: str = setting("tensor", "What has bounds of its own, of weights.", choices=("tensor", "gate", "channel"))
    bound: float = setting(1.0, "Of `fixed`; where those of `pact` start.", least=1e-6)


@dataclass
class LayerPolicyConfig:
    """How the layers of some names are quantized."""

    pattern: str = setting(
        "",
        "Of the layers' names, with `*` for any part: `encoder.layers.*`. A layer has the first policy whose pattern "
        "its name matches; the others stay as they are.",
    )
    weights: QuantizerConfig = section(QuantizerConfig)
    inputs: QuantizerConfig = section(QuantizerConfig)
    hidden: QuantizerConfig = section(QuantizerConfig)
    """Of an LSTM's state on its way to the next step."""


@dataclass
class QuantizationConfig:
    """Layers by policy."""

    layers: dict[str, LayerPolicyConfig] = setting({}, "Policies by a name of your choice.")
