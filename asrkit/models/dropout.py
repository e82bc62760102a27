"""Dropout with cheap random bits on a CPU."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) that draws one byte per element.

    torch's dropout draws a double per element from a serial generator, which on a CPU takes as long as a feed-forward
    layer. Here one 64-bit draw is used for eight elements. The probability is rounded to a multiple of 1/256, and the
    scale uses the rounded one, so the mean is exact.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability must be in [0, 1), got {p}")
        self.p = p
        self.threshold = round(p * 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape to the same shape."""
        if not self.training or self.threshold == 0:
            return x
        if x.is_cuda:
            return F.dropout(x, self.p)
        draws = torch.empty(x.numel() // 8 + 1, dtype=torch.int64).random_(-(2**63), None)
        keep = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * keep.to(x.dtype).mul_(256 / (256 - self.threshold))

    def extra_repr(self) -> str:
        """For printing a model."""
        return f"p={self.p}"
