"""Mixing matrices of decentralized SGD (Zhang et al. 2021, arXiv 2112.01433).

Learner j starts its step from w_s,j = Σ_k T_jk w_k. Every T here is doubly stochastic, so mixing keeps the mean.
"""

from __future__ import annotations

import math

import torch

from asrkit.randomness import seeded_generator


def global_average(n: int) -> torch.Tensor:
    """(n, n): every learner takes the mean of all."""
    return torch.full((n, n), 1.0 / n, dtype=torch.float64)


def ring(n: int) -> torch.Tensor:
    """(n, n): a third of oneself and of each of two neighbours on a ring of at least three."""
    return _ring_along(torch.arange(n))


def random_ring(n: int, generator: torch.Generator) -> torch.Tensor:
    """(n, n): a ring in a random order."""
    return _ring_along(torch.randperm(n, generator=generator))


def random_neighbour(n: int, generator: torch.Generator) -> torch.Tensor:
    """(n, n): learners are paired at random and pairs averaged; of an odd number one stays alone."""
    mixing = torch.eye(n, dtype=torch.float64)
    for first, second in torch.randperm(n, generator=generator)[: n // 2 * 2].view(-1, 2):
        mixing[[first, first, second, second], [first, second, first, second]] = 0.5
    return mixing


KINDS = ("average", "ring", "random_ring", "random_pairs")


def mixing_matrix(kind: str, n: int, seed: int, step: int) -> torch.Tensor:
    """(n, n) T of a step, the same for whoever asks with the same seed.

    Args:
        kind: one of :data:`KINDS`; a ring of fewer than three learners is their average.
        n: learners.
        seed: of the random kinds.
        step: number of the update.
    """
    generator = seeded_generator("mixing", seed, step)
    if kind == "random_pairs":
        return random_neighbour(n, generator)
    if kind == "average" or n < 3:
        return global_average(n)
    return ring(n) if kind == "ring" else random_ring(n, generator)


def ring_eigenvalues(n: int) -> torch.Tensor:
    """(n,) (1 + 2 cos(2πk/n)) / 3, by which a step of the ring shrinks mode k of the disagreement."""
    return (1.0 + 2.0 * torch.cos(2.0 * math.pi * torch.arange(n, dtype=torch.float64) / n)) / 3.0


def _ring_along(order: torch.Tensor) -> torch.Tensor:
    n = len(order)
    if n < 3:
        raise ValueError(f"a ring needs three learners, there are {n}")
    mixing = torch.zeros(n, n, dtype=torch.float64)
    for step in (-1, 0, 1):
        mixing[order, order.roll(step)] = 1.0 / 3.0
    return mixing
