"""Mixing matrices of decentralized SGD (Zhang et al. 2021, arXiv 2112.01433).

Learner j starts its step from w_s,j = Σ_k T_jk w_k. Every T here is doubly stochastic, so mixing keeps the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from asrkit.randomness import seeded_generator


def global_average(n: int) -> torch.Tensor:
    """(n, n): every learner takes the mean of all."""
    return torch.full((n, n), 1.0 / n, dtype=torch.float64)


def ring(n: int) -> torch.Tensor:
    """(n, n): a third of a learner's own weights and of each neighbour's, on a ring of at least three."""
    return _ring_along(torch.arange(n))


def random_ring(n: int, generator: torch.Generator) -> torch.Tensor:
    """(n, n): a ring in a random order."""
    return _ring_along(torch.randperm(n, generator=generator))


def random_neighbour(n: int, generator: torch.Generator) -> torch.Tensor:
    """(n, n): learners are averaged in random pairs; of an odd number, one stays alone."""
    mixing = torch.eye(n, dtype=torch.float64)
    for first, second in torch.randperm(n, generator=generator)[: n // 2 * 2].view(-1, 2):
        mixing[[first, first, second, second], [first, second, first, second]] = 0.5
    return mixing


AVERAGE = "average"
KINDS = (AVERAGE, "ring", "random_ring", "random_pairs")


def mixing_matrix(kind: str, n: int, seed: int, step: int) -> torch.Tensor:
    """(n, n) T of a step, the same for all learners with the same seed.

    Args:
        kind: one of :data:`KINDS`; a ring of fewer than three learners is their average.
        n: learners.
        seed: for the random kinds.
        step: number of the update.
    """
    generator = seeded_generator("mixing", seed, step)
    if kind == "random_pairs":
        return random_neighbour(n, generator)
    if kind == AVERAGE or n < 3:
        return global_average(n)
    return ring(n) if kind == "ring" else random_ring(n, generator)


def partner(kind: str, present: Sequence[int], rank: int, seed: int, step: int) -> int | None:
    """The learner that an asynchronous one asks for an average after a step; None for nobody.

    Args:
        kind: ``ring`` asks the next on a ring of those present, ``random_ring`` the next on a ring in a random order,
            ``random_pairs`` the other of a random pair. Each learner draws for itself: the last two ask a random one.
        present: learners that can be asked, in ascending order, this one included.
        rank: of the asking learner.
        seed: for the random kinds.
        step: updates that this learner has done.
    """
    n = len(present)
    if n < 2:
        return None
    index = present.index(rank)
    if kind == "ring":
        return present[(index + 1) % n]
    order: list[int] = torch.randperm(n, generator=seeded_generator("mixing", seed, rank, step)).tolist()
    position = order.index(index)
    if kind == "random_ring":
        return present[order[(position + 1) % n]]
    other = position ^ 1
    return present[order[other]] if other < n else None


SHARES = {"ring": 1 / 3, "random_ring": 1 / 3, "random_pairs": 1 / 2}
"""β of :func:`asrkit.distributed.updates.exchanged` by the kind of :func:`partner`."""


def ring_eigenvalues(n: int) -> torch.Tensor:
    """(n,) (1 + 2 cos(2πk/n)) / 3, the factor by which a step of the ring shrinks mode k of the disagreement."""
    return (1.0 + 2.0 * torch.cos(2.0 * math.pi * torch.arange(n, dtype=torch.float64) / n)) / 3.0


def _ring_along(order: torch.Tensor) -> torch.Tensor:
    n = len(order)
    if n < 3:
        raise ValueError(f"a ring needs three learners, there are {n}")
    mixing = torch.zeros(n, n, dtype=torch.float64)
    for step in (-1, 0, 1):
        mixing[order, order.roll(step)] = 1.0 / 3.0
    return mixing
