"""The encoder interface."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """Maps features (B, T, F) and lengths (B,) to encoder_out (B, T', D), zero in the padding, and lengths (B,)."""

    output_dim: int
    """D."""
    subsampling: int
    """Feature frames per encoder frame."""
