"""Masks of padded batches."""

from __future__ import annotations

import torch


def valid_mask(lens: torch.Tensor, max_len: int) -> torch.Tensor:
    """(B,) lengths to (B, max_len) bool, True where the position is not padding."""
    return torch.arange(max_len, device=lens.device)[None, :] < lens[:, None]
