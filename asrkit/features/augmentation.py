"""What an augmentation knows about the presentation it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lhotse.cut import Cut


@dataclass(frozen=True)
class Presentation:
    """One utterance on its way into a batch."""

    cut: Cut
    epoch: int
    """From 1."""
    min_frames: int
    """With fewer frames, the utterance's labels would not fit."""
    generator: torch.Generator
    """Source of all random decisions."""


Augmentation = Callable[[torch.Tensor, Presentation], tuple[torch.Tensor, bool]]
"""Changes normalized (T, F) log-Mel features at random, and returns whether the utterance was chosen."""


def chosen(probability: float, generator: torch.Generator) -> bool:
    """True with the given probability."""
    return torch.rand((), generator=generator).item() < probability
