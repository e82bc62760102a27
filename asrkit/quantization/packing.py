"""Quantized weights as they are stored: two 4-bit or four 2-bit codes per byte.

A quantized weight is its codes and the quantizer's bounds, so nothing is lost: the values of codes have the same
codes again, and a model read from packed weights computes the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from asrkit.quantization.qat import QuantizedDepthwiseConv, QuantizedLinear, QuantizedLstmLayer
from asrkit.quantization.quantizers import Quantizer, calibrated, dequantize

PACKED = "packed"
"""Prefix of packed weights' names, in place of ``model``."""


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of any shape, in bytes: ceil(N · bits / 8) of them, the first code in the lowest bits.

    Args:
        codes: integers from 0 to 2^bits - 1.
        bits: of a code; codes of 3 bits take 4.
    """
    width, per_byte = _layout(bits)
    flat = codes.flatten().to(torch.uint8)
    padded = torch.cat([flat, flat.new_zeros(-len(flat) % per_byte)]).view(-1, per_byte)
    out = torch.zeros(len(padded), dtype=torch.uint8)
    for place in range(per_byte):
        out |= padded[:, place] << (place * width)
    return out


def unpack(packed: torch.Tensor, bits: int, number: int) -> torch.Tensor:
    """The first ``number`` codes in bytes from :func:`pack`, uint8 (number,).

    Raises:
        ValueError: the number of bytes is not what the codes take.
    """
    width, per_byte = _layout(bits)
    if packed.shape != (-(-number // per_byte),) or packed.dtype != torch.uint8:
        raise ValueError(
            f"{number} codes of {bits} bits take {-(-number // per_byte)} bytes, not {tuple(packed.shape)}"
        )
    places = [(packed >> (place * width)) & (2**width - 1) for place in range(per_byte)]
    return torch.stack(places, dim=1).flatten()[:number]


def packed_bytes(number: int, bits: int) -> int:
    """Bytes that ``number`` codes take."""
    return -(-number // _layout(bits)[1])


def _layout(bits: int) -> tuple[int, int]:
    width = 4 if bits == 3 else bits
    return width, 8 // width


def quantized_weights(model: nn.Module) -> Iterator[tuple[str, str, Quantizer]]:
    """Each quantized weight: its name, and the name and the module of its quantizer."""
    places = {
        QuantizedLinear: [("weight", "weight_quantizer")],
        QuantizedDepthwiseConv: [("conv.weight", "weight_quantizer")],
        QuantizedLstmLayer: [("weight_ih", "input_weight_quantizer"), ("weight_hh", "hidden_weight_quantizer")],
    }
    for name, module in model.named_modules():
        for weight, own in places.get(type(module), []):
            quantizer = module.get_submodule(own)
            if isinstance(quantizer, Quantizer):
                prefix = f"{name}." if name else ""
                yield f"{prefix}{weight}", f"{prefix}{own}", quantizer


def pack_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The packed codes of the quantized weights, by the weight's name.

    Raises:
        ValueError: weights that are not finite, or whose quantizer has no bounds.
    """
    packed = {}
    for name, own, quantizer in quantized_weights(model):
        weight = model.get_parameter(name).detach()
        if not weight.isfinite().all():
            raise ValueError(f"'{name}' is not finite")
        if weight.any() and not calibrated([quantizer]):
            raise ValueError(f"'{own}' has no bounds: nothing has passed it yet")
        packed[name] = pack(quantizer.codes(weight), quantizer.bits)
    return packed


def unpack_weights(
    model: nn.Module, packed: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The values of packed weights, float32.

    Args:
        model: of which only the layers, their quantizers' settings and the weights' shapes are used; it may be without
            data (the ``meta`` device).
        packed: from :func:`pack_weights`.
        tensors: the model's other saved tensors, including the bounds of quantizers.

    Raises:
        ValueError: a weight that the model does not quantize, missing bounds, another number of bytes than the
            weight takes, or a code that the quantizer does not have.
    """
    known = {name: (own, quantizer) for name, own, quantizer in quantized_weights(model)}
    values = {}
    for name, codes in packed.items():
        if name not in known:
            raise ValueError(f"'{name}' is packed, but its configuration does not quantize it")
        own, quantizer = known[name]
        bound, shape = tensors.get(f"{own}.bound"), model.get_parameter(name).shape
        if bound is None or bound.shape != (quantizer.groups,):
            raise ValueError(f"'{own}' has no bound for each of {quantizer.groups} groups")
        grouped = unpack(codes, quantizer.bits, shape.numel()).view(quantizer.groups, -1)
        if int(grouped.max()) >= quantizer.levels:
            raise ValueError(f"'{name}' holds a code beyond its {quantizer.levels} levels")
        high = bound[:, None]
        values[name] = dequantize(grouped, -high, high, quantizer.levels, quantizer.zero_aligned).view(shape)
    return values
