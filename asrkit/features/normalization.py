"""Mean and variance normalization with statistics of the training set or of a group, such as a speaker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

GLOBAL = "global"


@dataclass(frozen=True)
class MeanStd:
    """Statistics of one group of frames, both (F,) float32."""

    mean: torch.Tensor
    std: torch.Tensor

    def apply(self, features: torch.Tensor) -> torch.Tensor:
        """(T, F) to (T, F) with mean 0 and standard deviation 1 over the group."""
        return (features - self.mean) / self.std


@dataclass(frozen=True)
class Moments:
    """Sums over frames; the moments of a group are the sum over its utterances."""

    count: int
    total: torch.Tensor
    """(F,) float64."""
    squares: torch.Tensor
    """(F,) float64."""

    @classmethod
    def of(cls, features: torch.Tensor) -> Moments:
        """Moments of one (T, F) matrix."""
        x = features.to(torch.float64)
        return cls(x.shape[0], x.sum(0), x.square().sum(0))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both."""
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def finish(self) -> MeanStd:
        """Mean and standard deviation."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(1e-10)
        return MeanStd(mean.float(), variance.sqrt().float())


def mean_std(features: torch.Tensor) -> MeanStd:
    """Statistics of one (T, F) matrix."""
    return Moments.of(features).finish()


def accumulate_statistics(utterances: Iterable[tuple[str, Moments]]) -> dict[str, MeanStd]:
    """Statistics of each group and, under the name ``global``, of all frames together.

    Args:
        utterances: pairs of a group's name (such as ``speaker:fash``) and an utterance's moments.
    """
    sums: dict[str, Moments] = {}
    for group, moments in utterances:
        for name in (GLOBAL, group):
            sums[name] = sums[name] + moments if name in sums else moments
    return {name: item.finish() for name, item in sums.items() if item.count}
