"""Quantization-aware training: layers with quantizers on weights and activations.

Fasoli et al. 2021 (arXiv 2108.12074), section 3: linear layers and LSTMs compute with quantized weights, inputs and
hidden states, in floating point, so that training adapts to the rounding. Cell states, biases, embeddings and norms
are unchanged. :func:`quantize_layers` is the rewrite ``quantize``: a quantized model is trained, resumed, averaged and
loaded like any other. Quantized layers have the same weight names, so that training can start from a float model;
:func:`calibrate` sets the bounds without training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn import functional as F

from asrkit.config import Config
from asrkit.config_quantization import LayerPolicyConfig, QuantizerConfig
from asrkit.errors import UserError
from asrkit.models.convolution import DepthwiseConv
from asrkit.models.lstm import LstmLayer, LstmState, WeightDropout, lstm_cells
from asrkit.quantization.quantizers import (
    MAX_MOMENTUM,
    FixedQuantizer,
    MaxQuantizer,
    PactQuantizer,
    Quantizer,
    SawbQuantizer,
)

GATES = 4
QUANTIZER_STATE = "_quantizer."
"""Part of the names of quantizer state, which a float model lacks."""
OBSERVED_BOUND = f"{QUANTIZER_STATE}bound"
"""Suffix of the names of bounds that are taken from the data, not learned."""


class QuantizedLinear(nn.Linear):
    """A linear map with quantized weights and inputs.

    Args:
        plain: the float layer, whose weights it takes.
        policy: of its quantizers.
    """

    def __init__(self, plain: nn.Linear, policy: LayerPolicyConfig) -> None:
        with torch.device("meta"):
            super().__init__(plain.in_features, plain.out_features, plain.bias is not None)
        self.weight, self.bias = plain.weight, plain.bias
        self.weight_quantizer = weight_quantizer(policy.weights, plain.out_features)
        self.input_quantizer = activation_quantizer(policy.inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        return F.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)


class QuantizedDepthwiseConv(DepthwiseConv):
    """A depthwise convolution with quantized weights and inputs."""

    def __init__(self, plain: DepthwiseConv, policy: LayerPolicyConfig) -> None:
        channels, _, kernel, _ = plain.conv.weight.shape
        with torch.device("meta"):
            super().__init__(channels, kernel)
        self.conv = plain.conv
        self.weight_quantizer = weight_quantizer(policy.weights, channels)
        self.input_quantizer = activation_quantizer(policy.inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, T, C)."""
        x = self.input_quantizer(x).transpose(1, 2).unsqueeze(-1).contiguous(memory_format=torch.channels_last)
        weight = self.weight_quantizer(self.conv.weight)
        x = F.conv2d(x, weight, self.conv.bias, padding=self.conv.padding, groups=self.conv.groups)
        return x.squeeze(-1).transpose(1, 2)


class QuantizedLstmLayer(LstmLayer):
    """An LSTM layer with quantized weights, inputs and hidden states; the cell state is not quantized.

    The hidden state is quantized only for the next step; the output is not quantized, as the next layer quantizes its
    input.
    """

    def __init__(self, plain: LstmLayer, policy: LayerPolicyConfig) -> None:
        with torch.device("meta"):
            super().__init__(plain.input_dim, plain.hidden_dim)
        self.weight_ih, self.weight_hh = plain.weight_ih, plain.weight_hh
        self.bias_ih, self.bias_hh = plain.bias_ih, plain.bias_hh
        self.input_weight_quantizer = weight_quantizer(policy.weights, GATES * plain.hidden_dim, GATES)
        self.hidden_weight_quantizer = weight_quantizer(policy.weights, GATES * plain.hidden_dim, GATES)
        self.input_quantizer = activation_quantizer(policy.inputs)
        self.hidden_quantizer = activation_quantizer(policy.hidden)

    def run(
        self, x: torch.Tensor, state: LstmState | None = None, drop: WeightDropout | None = None
    ) -> tuple[torch.Tensor, LstmState]:
        """The layer over a sequence, see :meth:`LstmLayer.run`."""
        h, c = self.initial_state(x.shape[1]) if state is None else state
        weight_ih = self.input_weight_quantizer(self.weight_ih)
        weight_hh = self.hidden_weight_quantizer(self.weight_hh)
        if drop is not None:
            weight_hh = drop(weight_hh)  # after quantizing, as the bound is that of all weights
        input_gates = F.linear(self.input_quantizer(x), weight_ih, self.bias_ih + self.bias_hh)  # (T, B, 4 H)
        out = []
        for gates in input_gates:
            gates = gates + F.linear(self.hidden_quantizer(h.to(gates.dtype)), weight_hh)
            h, c = lstm_cells(gates, c)
            out.append(h)
        return torch.stack(out) if out else x.new_zeros(0, x.shape[1], self.hidden_dim), (h, c)


QUANTIZED: dict[type[nn.Module], Callable[[nn.Module, LayerPolicyConfig], nn.Module]] = {
    nn.Linear: QuantizedLinear,  # type: ignore[dict-item]
    DepthwiseConv: QuantizedDepthwiseConv,  # type: ignore[dict-item]
    LstmLayer: QuantizedLstmLayer,  # type: ignore[dict-item]
}
"""The replacement for each kind of layer."""


def quantize_layers(model: nn.Module, config: Config) -> None:
    """Replaces the layers that match a policy of ``quantization.layers``; the rewrite ``quantize``.

    Raises:
        UserError: no policy, one whose pattern matches no layer that can be quantized, or an unsupported model.
    """
    if any(isinstance(module, nn.TransformerEncoderLayer) for module in model.modules()):
        # Torch evaluates it in one call, bypassing the quantizers of its layers.
        raise UserError("rewrites: quantize does not know lm.type=transformer; only lm.type=lstm can be quantized")
    policies = config.quantization.layers
    if not policies:
        raise UserError("rewrites: quantize needs policies; include conf/quantize/int4_rnnt.yaml or write your own")
    unused = dict(policies)
    for name, module in list(model.named_modules()):
        make = QUANTIZED.get(type(module))
        chosen = next((key for key, policy in policies.items() if fnmatchcase(name, policy.pattern)), None)
        if make is not None and chosen is not None:
            unused.pop(chosen, None)
            model.set_submodule(name, make(module, policies[chosen]))
    for key, policy in unused.items():
        raise UserError(f"quantization.layers.{key}: no layer that can be quantized has a name like '{policy.pattern}'")


def restore_layers(model: nn.Module) -> None:
    """Restores the layers that quantized layers replaced, with their current weights."""
    for name, module in list(model.named_modules()):
        plain: nn.Module
        with torch.device("meta"):
            if isinstance(module, QuantizedLinear):
                plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
            elif isinstance(module, QuantizedDepthwiseConv):
                plain = DepthwiseConv(module.conv.weight.shape[0], module.conv.weight.shape[2])
            elif isinstance(module, QuantizedLstmLayer):
                plain = LstmLayer(module.input_dim, module.hidden_dim)
            else:
                continue
        for attribute in ("weight", "bias", "conv", "weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            if hasattr(plain, attribute):
                setattr(plain, attribute, getattr(module, attribute))
        model.set_submodule(name, plain)


def quantizers(model: nn.Module) -> list[Quantizer]:
    """All quantizers of a model."""
    return [module for module in model.modules() if isinstance(module, Quantizer)]


@contextmanager
def calibrate(model: nn.Module) -> Iterator[None]:
    """While entered, the model is in evaluation mode, and its computations set the bounds of its quantizers.

    Learned bounds are fitted for the least squared error; maxima are over all tensors.
    """
    was_training = model.training
    model.eval()
    hooks = []
    for quantizer in quantizers(model):
        if isinstance(quantizer, PactQuantizer):
            hooks.append(quantizer.register_forward_pre_hook(_Fit()))
        elif isinstance(quantizer, MaxQuantizer):
            quantizer.bound.zero_()
            hooks.append(quantizer.register_forward_pre_hook(_widen))
        else:
            quantizer.train()
    try:
        with torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)


def _widen(quantizer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    assert isinstance(quantizer, MaxQuantizer)
    quantizer.widen(inputs[0])


class _Fit:
    """Fits a quantizer to its inputs."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, quantizer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(quantizer, PactQuantizer)
        if inputs[0].any():
            self.number += 1
            quantizer.fit(inputs[0], self.number)


def weight_quantizer(config: QuantizerConfig, rows: int, gates: int = 1) -> nn.Module:
    """The quantizer of a weight with ``rows`` rows; the identity for ``none``."""
    groups = {"tensor": 1, "gate": gates, "channel": rows}[config.per]
    if config.type in ("pact", "pact_plus", "fixed"):
        raise UserError(f"quantization: {config.type} is for activations; weights take max, sawb or sawb_plus")
    if config.type == "max":
        return MaxQuantizer(config.bits, config.zero_aligned, groups)
    if config.type == "none":
        return nn.Identity()
    try:
        return SawbQuantizer(config.bits, config.zero_aligned, groups, clip_gradient=config.type == "sawb")
    except ValueError as error:
        raise UserError(f"quantization: {error}; set zero_aligned: false, or type: max") from error


def activation_quantizer(config: QuantizerConfig) -> nn.Module:
    """The quantizer of an activation; the identity for ``none``."""
    if config.type in ("sawb", "sawb_plus"):
        raise UserError(f"quantization: {config.type} is for weights; activations take max, pact, pact_plus or fixed")
    if config.type == "max":
        return MaxQuantizer(config.bits, config.zero_aligned, momentum=MAX_MOMENTUM)
    if config.type == "fixed":
        return FixedQuantizer(config.bits, config.bound, config.zero_aligned)
    if config.type == "none":
        return nn.Identity()
    return PactQuantizer(
        config.bits, zero_aligned=config.zero_aligned, bound=config.bound, residual=config.type == "pact_plus"
    )
