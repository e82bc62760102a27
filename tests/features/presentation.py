"""A presentation for augmentations under test."""

from __future__ import annotations

import torch
from lhotse.testing.dummies import dummy_cut

from asrkit.features.augmentation import Presentation


def presentation(seed: int = 0, epoch: int = 1, min_frames: int = 0) -> Presentation:
    """Some cut, and a generator with the given seed."""
    return Presentation(dummy_cut(0), epoch, min_frames, torch.Generator().manual_seed(seed))
