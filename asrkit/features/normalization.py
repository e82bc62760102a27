"""Mean and variance normalization: with global statistics or with each speaker's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

GLOBAL = "global"


@dataclass(frozen=True)
class MeanStd:
    """Statistics of one group of frames, both (F,) float32."""

    mean: torch.Tensor
    std: torch.Tensor

    def apply(self, features: torch.Tensor) -> torch.Tensor:
        """(T, F) to (T, F) with mean 0 and deviation 1 over the group."""
        return (features - self.mean) / self.std


@dataclass
class _Sums:
    count: int = 0
    total: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    def add(self, features: torch.Tensor) -> None:
        x = features.to(torch.float64)
        self.count += x.shape[0]
        self.total = self.total + x.sum(0)
        self.squares = self.squares + x.square().sum(0)

    def finish(self) -> MeanStd:
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(1e-10)
        return MeanStd(mean.float(), variance.sqrt().float())


def mean_std(features: torch.Tensor) -> MeanStd:
    """Statistics of one (T, F) matrix."""
    sums = _Sums()
    sums.add(features)
    return sums.finish()


def accumulate_statistics(utterances: Iterable[tuple[str, torch.Tensor]]) -> dict[str, MeanStd]:
    """Statistics of each group and, under the name ``global``, of all frames together.

    Args:
        utterances: pairs of a group's name (such as ``speaker:fash``) and (T, F) features.
    """
    sums: dict[str, _Sums] = {GLOBAL: _Sums()}
    for group, features in utterances:
        sums[GLOBAL].add(features)
        sums.setdefault(group, _Sums()).add(features)
    return {name: item.finish() for name, item in sums.items() if item.count}
