"""Retrieval quality: recall, reciprocal ranks, and bootstrap intervals over queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def gold_rank(passages: np.ndarray, scores: np.ndarray, gold: int) -> float:
    """Rank of the correct passage, from 1; inf if it was not retrieved.

    A passage with the same score counts as ranked before it.

    Args:
        passages: (K,) retrieved ids.
        scores: (K,).
        gold: the correct id.
    """
    places = np.flatnonzero(passages == gold)
    return float((scores >= scores[places[0]]).sum()) if places.size else float("inf")


def recall_at(ranks: ArrayLike, k: int) -> np.ndarray:
    """1 if the correct passage is among the first ``k``."""
    return (np.asarray(ranks) <= k).astype(np.float64)


def reciprocal_ranks(ranks: ArrayLike, k: int | None = None) -> np.ndarray:
    """1 / rank, 0 beyond ``k``; its mean is MRR, or MRR@k."""
    ranks = np.asarray(ranks, dtype=np.float64)
    values = 1.0 / ranks
    return values if k is None else np.where(ranks <= k, values, 0.0)


def discounted_gains(ranks: ArrayLike, k: int = 10) -> np.ndarray:
    """1 / log2(1 + rank), 0 beyond ``k``; its mean is nDCG@k, with one correct passage per query."""
    ranks = np.asarray(ranks, dtype=np.float64)
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(values: np.ndarray, *, replications: int = 10_000, seed: int = 0) -> Interval:
    """Mean of (Q,) values with its interval, resampling queries with replacement.

    Applied to the differences of two systems over the same queries, it is the paired bootstrap: they differ if the
    interval excludes 0.
    """
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(values), np.full(len(values), 1.0 / len(values)), size=replications)
    low, high = np.quantile(counts @ values / len(values), [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high))
