"""Soft random sampling: each epoch trains on r·N examples, redrawn with replacement.

Cui et al. 2023 (arXiv 2311.12727). An epoch's indices are a pure function of (seed, epoch): they do not depend on
processes or workers, and a resumed run draws what an uninterrupted one does. The baselines are in
:mod:`asrkit.data.subsets`.
"""

from __future__ import annotations

import math

import torch

from asrkit.randomness import seeded_generator


def draw_size(n: int, rate: float) -> int:
    """round(r·N), at least 1.

    Raises:
        ValueError: the rate is not in (0, 1].
    """
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"the selection rate is {rate}; it must be above 0 and at most 1")
    return max(1, round(rate * n))


def soft_random_sample(n: int, rate: float, seed: int, epoch: int) -> torch.Tensor:
    """(r·N,) indices below ``n``, uniform and independent, so that some repeat; redrawn in each epoch."""
    return torch.randint(n, (draw_size(n, rate),), generator=draw_generator(seed, epoch))


def expected_coverage(n: int, rate: float, epochs: int) -> float:
    """Expected share of the examples that soft random sampling has drawn: 1 − (1 − 1/N)^(k r N)."""
    return -math.expm1(epochs * draw_size(n, rate) * math.log1p(-1.0 / n)) if n > 1 else 1.0


def expected_distinct(n: int, draws: int) -> tuple[float, float]:
    """Mean and variance of the number of distinct examples in ``draws`` draws with replacement."""
    once, twice = (1 - 1 / n) ** draws, (1 - 2 / n) ** draws
    return n * (1 - once), n * (n - 1) * twice + n * once - n * n * once * once


def epochs_to_see_all(n: int, rate: float) -> float:
    """Expected epochs until every example is drawn (coupon collector): H_N / r."""
    return (math.log(n) + 0.5772156649015329 + 1 / (2 * n)) / rate


def draw_generator(seed: int, epoch: int) -> torch.Generator:
    """Generator of an epoch's draw."""
    return seeded_generator((seed << 20) + epoch)  # the stream of the published numbers
