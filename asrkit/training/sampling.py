"""Training on part of the utterances: which ones an epoch sees, and how many have been seen so far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asrkit.config_training import SamplingConfig, TrainConfig
from asrkit.data.index import CutIndex
from asrkit.data.mixing import mix_sets
from asrkit.data.soft_random_sampling import draw_size, expected_coverage, soft_random_sample
from asrkit.data.subsets import fixed_subset, highest_scores, repeated_subset
from asrkit.errors import UserError
from asrkit.training.importance import read_scores

Sampler = Callable[[int, int], np.ndarray]
"""Number of utterances and epoch (from 1) to the numbers of that epoch's utterances, which may repeat."""


def make_sampler(config: TrainConfig, train: CutIndex) -> Sampler | None:
    """The sampler that the settings name; None if an epoch sees all utterances once.

    Args:
        config: training settings.
        train: the utterances.

    Raises:
        UserError: mixed sets combined with sampling, or scores that cannot be read.
    """
    seed, kind, rate = config.seed, config.sampling.type, config.sampling.rate
    if config.mix:
        if kind != "all":
            raise UserError("train.mix and train.sampling exclude each other; weights say how much of a set is seen")
        weights = [1.0, *(other.weight for other in config.mix.values())]
        sources = train.sources if train.sources is not None else np.zeros(len(train), np.int64)
        return lambda n, epoch: mix_sets(sources, weights, seed, epoch)
    if kind == "all":
        return None
    if kind == "soft_random":
        return lambda n, epoch: soft_random_sample(n, rate, seed, epoch).numpy()
    if kind == "repeated_subset":
        return lambda n, epoch: repeated_subset(n, rate, seed, epoch).numpy()
    if kind == "highest_scores":
        chosen = highest_scores(read_scores(Path(config.sampling.scores), config.sampling.score, train), rate).numpy()
        return lambda n, epoch: chosen
    return lambda n, epoch: fixed_subset(n, rate, seed).numpy()


class Occupancy:
    """How often each of ``n`` utterances has been presented by an epoch's end.

    A resumed run repeats the draws it has not seen, as they are functions of the epoch.

    Args:
        sampler: draws an epoch's utterances.
        n: utterances.
        first: epochs before drawing starts.
    """

    def __init__(self, sampler: Sampler, n: int, first: int = 0) -> None:
        self.sampler, self.first, self.epoch = sampler, first, first
        self.presented = np.zeros(n, np.int32)

    def after(self, epoch: int, config: SamplingConfig) -> dict[str, Any]:
        """Coverage and occupancy after an epoch, observed and expected."""
        epoch = max(epoch, self.first)
        if epoch < self.epoch:
            self.presented[:], self.epoch = 0, self.first
        for n in range(self.epoch + 1, epoch + 1):
            drawn = self.sampler(len(self.presented), n)
            self.presented += np.bincount(drawn, minlength=len(self.presented)).astype(np.int32)
        self.epoch = epoch
        n, epochs = len(self.presented), self.epoch - self.first
        mean, share = float(self.presented.mean()), draw_size(n, config.rate) / n
        coverage = {
            "soft_random": expected_coverage(n, config.rate, epochs),
            "repeated_subset": 1 - (1 - share) ** epochs,
            "fixed_subset": share,
            "highest_scores": share,
        }
        variance = {
            "soft_random": mean * (1 - 1 / n),  # binomial; Poisson's for a large N
            "repeated_subset": epochs * share * (1 - share),
            "fixed_subset": epochs**2 * share * (1 - share),
            "highest_scores": epochs**2 * share * (1 - share),
        }
        return {
            "coverage": round(float((self.presented > 0).mean()), 4),
            "expected_coverage": round(coverage[config.type], 4),
            "presentations": round(mean, 4),
            "presentations_variance": round(float(self.presented.var()), 4),
            "expected_variance": round(variance[config.type], 4),
        }
