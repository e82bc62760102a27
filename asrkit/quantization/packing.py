"""Storage of quantized weights: two 4-bit or four 2-bit codes per byte.

The codes and the quantizer's bounds determine a quantized weight: quantizing the values of codes gives the same codes,
so a model read from packed weights computes the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from asrkit.quantization.qat import QuantizedDepthwiseConv, QuantizedLinear, QuantizedLstmLayer
from asrkit.quantization.quantizers import Quantizer, calibrated, dequantize

PACKED = "packed"
"""Prefix of packed weights' names, which replaces ``model``."""


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of any shape as ceil(N · bits / 8) bytes, with the first code in the lowest bits.

    Args:
        codes: integers from 0 to 2^bits - 1.
        bits: of a code; codes of 3 bits take 4.
    """
    width, per_byte = _layout(bits)
    flat = codes.flatten().to(torch.uint8)
    padded = torch.cat([flat, flat.new_zeros(-len(flat) % per_byte)]).view(-1, per_byte)
    out = torch.zeros(len(padded), dtype=torch.uint8)
    for n in range(per_byte):
        out |= padded[:, n] << (n * width)
    return out


def unpack(packed: torch.Tensor, bits: int, number: int) -> torch.Tensor:
    """The first ``number`` codes in bytes from :func:`pack`, uint8 (number,).

    Raises:
        ValueError: wrong number of bytes.
    """
    width, per_byte = _layout(bits)
    if packed.shape != (-(-number // per_byte),) or packed.dtype != torch.uint8:
        raise ValueError(
            f"{number} codes of {bits} bits take {-(-number // per_byte)} bytes, not {tuple(packed.shape)}"
        )
    parts = [(packed >> (n * width)) & (2**width - 1) for n in range(per_byte)]
    return torch.stack(parts, dim=1).flatten()[:number]


def packed_bytes(number: int, bits: int) -> int:
    """Bytes that ``number`` codes take."""
    return -(-number // _layout(bits)[1])


def _layout(bits: int) -> tuple[int, int]:
    width = 4 if bits == 3 else bits
    return width, 8 // width


def quantized_weights(model: nn.Module) -> Iterator[tuple[str, str, Quantizer]]:
    """Each quantized weight: its name, and the name and the module of its quantizer."""
    names = {
        QuantizedLinear: [("weight", "weight_quantizer")],
        QuantizedDepthwiseConv: [("conv.weight", "weight_quantizer")],
        QuantizedLstmLayer: [("weight_ih", "input_weight_quantizer"), ("weight_hh", "hidden_weight_quantizer")],
    }
    for name, module in model.named_modules():
        for weight, quantizer_name in names.get(type(module), []):
            quantizer = module.get_submodule(quantizer_name)
            if isinstance(quantizer, Quantizer):
                prefix = f"{name}." if name else ""
                yield f"{prefix}{weight}", f"{prefix}{quantizer_name}", quantizer


def pack_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The packed codes of the quantized weights, by the weight's name.

    Raises:
        ValueError: weights are not finite, or their quantizer has no bounds.
    """
    packed = {}
    for name, quantizer_name, quantizer in quantized_weights(model):
        weight = model.get_parameter(name).detach()
        if not weight.isfinite().all():
            raise ValueError(f"'{name}' is not finite")
        if weight.any() and not calibrated([quantizer]):
            raise ValueError(f"'{quantizer_name}' has no bounds: nothing has passed it yet")
        packed[name] = pack(quantizer.codes(weight), quantizer.bits)
    return packed


def unpack_weights(
    model: nn.Module, packed: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The values of packed weights, float32.

    Args:
        model: gives the layers, their quantizers' settings and the weights' shapes; it may be without data (the
            ``meta`` device).
        packed: from :func:`pack_weights`.
        tensors: the model's other saved tensors, including the bounds of quantizers.

    Raises:
        ValueError: a weight that the model does not quantize, missing bounds, a wrong number of bytes, or a code that
            the quantizer does not have.
    """
    known = {name: (quantizer_name, quantizer) for name, quantizer_name, quantizer in quantized_weights(model)}
    values = {}
    for name, codes in packed.items():
        if name not in known:
            raise ValueError(f"'{name}' is packed, but its configuration does not quantize it")
        quantizer_name, quantizer = known[name]
        bound, shape = tensors.get(f"{quantizer_name}.bound"), model.get_parameter(name).shape
        if bound is None or bound.shape != (quantizer.groups,):
            raise ValueError(f"'{quantizer_name}' has no bound for each of {quantizer.groups} groups")
        grouped = unpack(codes, quantizer.bits, shape.numel()).view(quantizer.groups, -1)
        if int(grouped.max()) >= quantizer.levels:
            raise ValueError(f"'{name}' holds a code beyond its {quantizer.levels} levels")
        high = bound[:, None]
        values[name] = dequantize(grouped, -high, high, quantizer.levels, quantizer.zero_aligned).view(shape)
    return values
