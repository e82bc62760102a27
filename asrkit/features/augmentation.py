"""The interface of augmentations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lhotse.cut import Cut


@dataclass(frozen=True)
class Presentation:
    """One utterance for a batch, as augmentations see it."""

    cut: Cut
    epoch: int
    """From 1."""
    min_frames: int
    """Fewest frames that the utterance's labels need."""
    generator: torch.Generator
    """Source of all random decisions."""


Augmentation = Callable[[torch.Tensor, Presentation], tuple[torch.Tensor, bool]]
"""Changes normalized (T, F) log-Mel features at random, and returns whether the utterance was chosen."""


def chosen(probability: float, generator: torch.Generator) -> bool:
    """True with the given probability."""
    return torch.rand((), generator=generator).item() < probability
