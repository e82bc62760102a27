"""Deltas and frame stacking: in the papers, 40 log-Mel energies become 240 values every 20 ms."""

from __future__ import annotations

import torch
from torch.nn import functional as F

DELTA_WINDOW = 2
"""Frames on each side used to fit a slope."""


def add_deltas(features: torch.Tensor) -> torch.Tensor:
    """Appends first and second differences, (T, F) to (T, 3 F), as Kaldi's ``add-deltas`` does.

    A difference is the slope of a line fitted to five frames; the first and last frames are repeated as padding.
    """
    first = _slope(features)
    return torch.cat([features, first, _slope(first)], dim=1)


def _slope(features: torch.Tensor) -> torch.Tensor:
    offsets = torch.arange(-DELTA_WINDOW, DELTA_WINDOW + 1, dtype=features.dtype)
    padded = F.pad(features.t().unsqueeze(1), (DELTA_WINDOW, DELTA_WINDOW), mode="replicate")  # (F, 1, T + 4)
    return F.conv1d(padded, (offsets / offsets.square().sum()).view(1, 1, -1)).squeeze(1).t()


def stack_frames(features: torch.Tensor, number: int) -> torch.Tensor:
    """Joins every ``number`` consecutive frames into one: (T, F) to (ceil(T / number), number · F).

    The last frame is repeated as padding.
    """
    missing = -features.shape[0] % number
    if missing:
        features = torch.cat([features, features[-1:].expand(missing, -1)])
    return features.reshape(-1, number * features.shape[1])
