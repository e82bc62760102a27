"""The size of a model in 32-bit numbers and as exported, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from asrkit.quantization.packing import packed_bytes, quantized_weights

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Size:
    """The size of one part of a model."""

    part: str
    parameters: int
    """Parameters of the float model, without bounds of quantizers."""
    quantized: int
    """Parameters stored as codes."""
    stored_bytes: int
    """Codes, bounds, and the other parameters as 32-bit numbers."""

    @property
    def float_bytes(self) -> int:
        """Bytes of the float model."""
        return FLOAT_BYTES * self.parameters

    @property
    def ratio(self) -> float:
        """Size of the float model divided by the stored size."""
        return self.float_bytes / max(1, self.stored_bytes)


def size_by_part(model: nn.Module) -> list[Size]:
    """The sizes of a model's children with parameters; the model may be without data."""
    sizes = []
    for part, child in model.named_children():
        codes = {name: quantizer.bits for name, _, quantizer in quantized_weights(child)}
        parameters = quantized = stored = 0
        for name, tensor in child.state_dict().items():
            if "_quantizer." in name:
                stored += tensor.nbytes
                continue
            parameters += tensor.numel()
            if name in codes:
                quantized += tensor.numel()
                stored += packed_bytes(tensor.numel(), codes[name])
            else:
                stored += FLOAT_BYTES * tensor.numel()
        if parameters:
            sizes.append(Size(part, parameters, quantized, stored))
    return sizes


def total_size(sizes: Sequence[Size]) -> Size:
    """All parts as one."""
    return Size(
        "total",
        sum(size.parameters for size in sizes),
        sum(size.quantized for size in sizes),
        sum(size.stored_bytes for size in sizes),
    )


def size_table(model: nn.Module) -> str:
    """One line per part and one for all: parameters, their quantized share, megabytes, ratio."""
    sizes = size_by_part(model)
    lines = [f"{'part':<12}{'parameters':>14}{'quantized':>12}{'float MB':>10}{'stored MB':>11}{'ratio':>8}"]
    for size in [*sizes, total_size(sizes)]:
        lines.append(
            f"{size.part:<12}{size.parameters:>14,}{100 * size.quantized / size.parameters:>10.1f} %"
            f"{size.float_bytes / 1e6:>10.2f}{size.stored_bytes / 1e6:>11.2f}{size.ratio:>8.2f}"
        )
    return "\n".join(lines)
