"""Bootstrap intervals over utterances (Bisani and Ney 2004, "Bootstrap estimates for confidence intervals")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asrkit.scoring.wer import Errors


def bootstrap_interval(
    errors: Sequence[Errors], *, replications: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of an error rate, in percent, when the utterances are drawn anew with replacement.

    Args:
        errors: counts of each utterance.
        replications: draws.
        level: share of the draws that lie within.
        seed: of the draws.
    """
    if not errors:
        return 0.0, 0.0
    generator = np.random.default_rng(seed)
    wrong = np.array([e.total for e in errors], dtype=np.float64)
    length = np.array([e.reference for e in errors], dtype=np.float64)
    rates = np.empty(replications)
    for i in range(replications):
        drawn = generator.integers(0, len(errors), len(errors))
        rates[i] = 100.0 * wrong[drawn].sum() / max(1.0, length[drawn].sum())
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
