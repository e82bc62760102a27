"""Length perturbation: frames are dropped and blank frames inserted at random.

Cui et al. 2022, "Improving generalization of deep neural network acoustic models with length perturbation and
n-best based label smoothing", arXiv 2203.15176, section 2, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from asrkit.features.augmentation import Presentation, chosen


@dataclass(frozen=True)
class LengthPerturbation:
    """Drops runs of frames from some utterances, and inserts runs of zero frames into some.

    The two decisions are independent; dropping comes first. It acts on normalized 10 ms log-Mel frames, whose mean is
    zero, before deltas and stacking. An utterance that would become too short for its labels is unchanged.
    """

    drop_probability: float
    """p_s: probability that an utterance loses frames."""
    drop_rate: float
    """r_s: share of its frames at which a run of dropped frames starts."""
    max_drop: int
    """T_s: longest run dropped; runs are uniform in 1 … T_s."""
    insert_probability: float
    """p_p: probability that an utterance gains frames."""
    insert_rate: float
    """r_p: share of its frames after which a run of zero frames is inserted."""
    max_insert: int
    """T_p: longest run inserted; runs are uniform in 1 … T_p."""
    from_epoch: int = 1
    """First epoch with perturbation."""
    until_epoch: int = 0
    """Last epoch with perturbation; 0 for no end."""

    def __call__(self, features: torch.Tensor, presentation: Presentation) -> tuple[torch.Tensor, bool]:
        """(T, F) to (T~, F), and whether frames were dropped or inserted."""
        epoch = presentation.epoch
        if epoch < self.from_epoch or (self.until_epoch and epoch > self.until_epoch):
            return features, False
        generator, perturbed = presentation.generator, features
        if chosen(self.drop_probability, generator):
            perturbed = drop_frames(perturbed, self.drop_rate, self.max_drop, generator)
        if chosen(self.insert_probability, generator):
            perturbed = insert_frames(perturbed, self.insert_rate, self.max_insert, generator)
        if perturbed.shape[0] < max(1, presentation.min_frames):
            return features, False
        return perturbed, perturbed is not features


def drop_frames(features: torch.Tensor, rate: float, max_run: int, generator: torch.Generator) -> torch.Tensor:
    """Removes runs of 1 … max_run frames that start at a random ``rate`` of the (T, F) frames.

    Starts are drawn without replacement, before frames are dropped; the union of overlapping runs is dropped.
    """
    num_frames = features.shape[0]
    starts, runs = _runs(num_frames, rate, max_run, generator)
    if not len(starts):
        return features
    edges = torch.zeros(num_frames + 1, dtype=torch.int64)
    edges.index_add_(0, starts, torch.ones_like(starts))
    edges.index_add_(0, (starts + runs).clamp_max(num_frames), -torch.ones_like(starts))
    return features[edges.cumsum(0)[:-1] == 0]


def insert_frames(features: torch.Tensor, rate: float, max_run: int, generator: torch.Generator) -> torch.Tensor:
    """Inserts runs of 1 … max_run zero frames after a random ``rate`` of the (T, F) frames."""
    num_frames = features.shape[0]
    points, runs = _runs(num_frames, rate, max_run, generator)
    if not len(points):
        return features
    inserted = torch.zeros(num_frames, dtype=torch.int64)
    inserted[points] = runs
    offsets = inserted.cumsum(0) - inserted
    result = features.new_zeros(num_frames + int(runs.sum()), features.shape[1])
    result[torch.arange(num_frames) + offsets] = features
    return result


def _runs(num_frames: int, rate: float, max_run: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) distinct positions, and a length in 1 … max_run for each."""
    number = round(rate * num_frames) if max_run > 0 else 0
    positions = torch.randperm(num_frames, generator=generator)[:number]
    return positions, torch.randint(1, max(1, max_run) + 1, (number,), generator=generator)
