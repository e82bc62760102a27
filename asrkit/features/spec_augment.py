"""SpecAugment (Park et al. 2019, arXiv 1904.08779): frequency and time masks, without time warping."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from asrkit.features.augmentation import Presentation, chosen


@dataclass(frozen=True)
class SpecAugment:
    """Masks random frequency bands and time spans with zero, the mean of normalized features."""

    probability: float
    num_frequency_masks: int
    max_frequency_mask_bins: int
    num_time_masks: int
    max_time_mask_frames: int
    max_time_mask_fraction: float
    from_epoch: int = 1

    def __call__(self, features: torch.Tensor, presentation: Presentation) -> tuple[torch.Tensor, bool]:
        """(T, F) to a masked copy, and whether the utterance was chosen."""
        generator = presentation.generator
        if presentation.epoch < self.from_epoch or not chosen(self.probability, generator):
            return features, False
        num_frames, num_bins = features.shape
        masked = features.clone()
        for start, end in _spans(self.num_frequency_masks, self.max_frequency_mask_bins, num_bins, generator):
            masked[:, start:end] = 0.0
        longest = min(self.max_time_mask_frames, int(self.max_time_mask_fraction * num_frames))
        for start, end in _spans(self.num_time_masks, longest, num_frames, generator):
            masked[start:end] = 0.0
        return masked, True


def _spans(number: int, longest: int, size: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """``number`` spans of 0 to ``longest`` positions within ``size``."""
    if longest <= 0 or number <= 0:
        return []
    widths = torch.randint(0, min(longest, size) + 1, (number,), generator=generator)
    starts = (torch.rand(number, generator=generator) * (size - widths + 1)).long()
    return [(int(start), int(start + width)) for start, width in zip(starts, widths, strict=True)]
