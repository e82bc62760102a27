"""Aligning two word sequences as NIST sclite does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

GAP = "***"
"""Stands for the missing word of an insertion or deletion."""
Pair = tuple[str, str]

# Among alignments of equal cost sclite takes one with the fewest errors: cost first, then one per error.
_UNIT = 1 << 24
_SUBSTITUTION = 4 * _UNIT + 1
_GAP_COST = 3 * _UNIT + 1


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Aligned pairs at sclite's costs (substitution 4, insertion and deletion 3), ``***`` for a gap.

    Cost and number of errors together determine the numbers of substitutions, deletions and insertions, so
    these totals are sclite's whichever of the equally good alignments is shown. jiwer and kaldialign break
    ties differently: their splits, and at these costs the totals, may differ.
    """
    cost = list(_cost_rows(reference, hypothesis))
    pairs: list[Pair] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        here = cost[i][j]
        if i and j:
            same = reference[i - 1] == hypothesis[j - 1]
            if here == cost[i - 1][j - 1] + (0 if same else _SUBSTITUTION):
                i, j = i - 1, j - 1
                pairs.append((reference[i], hypothesis[j]))
                continue
        if i and here == cost[i - 1][j] + _GAP_COST:
            i -= 1
            pairs.append((reference[i], GAP))
        else:
            j -= 1
            pairs.append((GAP, hypothesis[j]))
    return pairs[::-1]


def count(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions of :func:`align`, in memory linear in the length."""
    last = deque(_cost_rows(reference, hypothesis), maxlen=1)[0]
    cost, errors = divmod(int(last[-1]), _UNIT)
    substitutions = cost - 3 * errors
    deletions = (errors - substitutions + len(reference) - len(hypothesis)) // 2
    return substitutions, deletions, errors - substitutions - deletions


def cost(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The cost that :func:`align` minimises."""
    return int(deque(_cost_rows(reference, hypothesis), maxlen=1)[0][-1])


def _cost_rows(reference: Sequence[str], hypothesis: Sequence[str]) -> Iterator[np.ndarray]:
    """R + 1 rows of (H + 1,) int64: the minimum cost of aligning each pair of prefixes."""
    numbers: dict[str, int] = {}
    ref = np.array([numbers.setdefault(word, len(numbers)) for word in reference], dtype=np.int64)
    hyp = np.array([numbers.setdefault(word, len(numbers)) for word in hypothesis], dtype=np.int64)
    ramp = np.arange(len(hyp) + 1, dtype=np.int64) * _GAP_COST
    cost = ramp
    yield cost
    for word in ref:
        row = cost + _GAP_COST  # deletion of this word
        row[1:] = np.minimum(row[1:], cost[:-1] + np.where(hyp == word, 0, _SUBSTITUTION))
        # Insertions run along the row: the least over j' <= j of row[j'] + (j - j')·gap.
        cost = np.minimum.accumulate(row - ramp) + ramp
        yield cost
