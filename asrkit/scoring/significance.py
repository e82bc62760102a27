"""Bootstrap over utterances (Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP): intervals of error rates, and of the difference between two systems on the same utterances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asrkit.errors import UserError
from asrkit.scoring.alignment import GAP, Pair
from asrkit.scoring.wer import Errors

GOOD_WORDS = 2
"""A segment ends after this number of consecutive words that both systems recognize."""


def bootstrap_interval(
    errors: Sequence[Errors], *, replications: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of an error rate, in percent, when the utterances are resampled with replacement.

    Args:
        errors: counts of each utterance.
        replications: draws.
        level: share of the draws within it.
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


def matched_pairs(first: Sequence[Sequence[Pair]], second: Sequence[Sequence[Pair]]) -> float:
    """Two-sided p-value of the matched pairs test on sentence segments, MAPSSWE.

    Gillick and Cox 1989, "Some statistical issues in the comparison of speech recognition algorithms", ICASSP.

    Args:
        first: the alignment of each utterance.
        second: the other system's, in the same order.
    """
    differences = np.array(segment_differences(first, second), dtype=np.float64)
    if len(differences) < 2 or not differences.std():
        return 1.0  # as NIST's sc_stats does: there is no deviation to compare with
    z = abs(differences.mean()) / (differences.std(ddof=1) / math.sqrt(len(differences)))
    return math.erfc(z / math.sqrt(2))


def segment_differences(first: Sequence[Sequence[Pair]], second: Sequence[Sequence[Pair]]) -> list[int]:
    """Errors of the first system minus those of the second, in each segment with an error.

    As in NIST's ``sc_stats``, segments end with two words that both systems recognize, so that errors in different
    segments are almost independent. An utterance is one segment if the systems were nearest to different references.
    """
    differences: list[int] = []
    for ours, theirs in zip(first, second, strict=True):
        errors = _errors_by_word(ours), _errors_by_word(theirs)
        if len(errors[0]) != len(errors[1]):
            totals = [sum(map(sum, counts)) for counts in errors]
            differences += [totals[0] - totals[1]] if any(totals) else []
            continue
        difference = good = 0
        is_open = False
        for (inserted, wrong), (also_inserted, also_wrong) in zip(*errors, strict=True):
            difference += inserted + wrong - also_inserted - also_wrong
            good = 0 if inserted or also_inserted else good
            good = 0 if wrong or also_wrong else good + 1
            is_open |= bool(inserted or wrong or also_inserted or also_wrong)
            if is_open and good == GOOD_WORDS:
                differences.append(difference)
                difference, is_open = 0, False
        if is_open:
            differences.append(difference)
    return differences


def _errors_by_word(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """For each reference word, the insertions before it and whether it is wrong; then the insertions at the end."""
    errors, inserted = [], 0
    for ref, hyp in pairs:
        if ref is GAP:
            inserted += 1
        else:
            errors.append((inserted, int(ref != hyp)))
            inserted = 0
    return [*errors, (inserted, 0)]


@dataclass(frozen=True)
class Difference:
    """The difference between two systems, pooled over the trainings of each."""

    baseline: float
    """Error rate of the baseline in percent, over its trainings."""
    system: float
    """Error rate of the system."""
    low: float
    """95 % interval of system - baseline, in points."""
    high: float
    p_value: float
    """Two-sided share of the draws in which the difference does not have the measured sign."""

    @property
    def points(self) -> float:
        """System minus baseline: below 0 if the system is better."""
        return self.system - self.baseline


def paired_bootstrap(
    baseline: Sequence[Sequence[Errors]],
    system: Sequence[Sequence[Errors]],
    *,
    replications: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """The difference between two systems, each trained at least once, on the same utterances.

    A draw resamples the utterances, the same for all trainings of both systems, and the trainings of each system. So
    the interval covers other test sets and other seeds.

    Args:
        baseline: for each training, the counts of each utterance.
        system: the same for the other system; utterances in the same order.
        replications: draws.
        level: share of the draws in the interval.
        seed: of the draws.

    Raises:
        UserError: no training, no reference words, or different numbers of utterances.
    """
    numbers = {len(run) for runs in (baseline, system) for run in runs}
    if len(numbers) != 1:
        raise UserError("the systems to compare were not scored on the same utterances")
    # Lengths differ if a reference has alternatives and the systems are nearest to different ones.
    wrongs = [np.array([[e.total for e in run] for run in runs], dtype=np.float64) for runs in (baseline, system)]
    lengths = [np.array([[e.reference for e in run] for run in runs], dtype=np.float64) for runs in (baseline, system)]
    if not all(length.sum(axis=1).all() for length in lengths):
        raise UserError("the systems to compare were scored on references without words")
    generator, number = np.random.default_rng(seed), numbers.pop()
    measured = [100.0 * wrong.sum() / length.sum() for wrong, length in zip(wrongs, lengths, strict=True)]
    differences = np.empty(replications)
    for i in range(replications):
        drawn = generator.integers(0, number, number)
        rates = []
        for wrong, length in zip(wrongs, lengths, strict=True):
            trainings = generator.integers(0, len(wrong), len(wrong))
            words = max(1.0, length[trainings][:, drawn].sum())
            rates.append(100.0 * wrong[trainings][:, drawn].sum() / words)
        differences[i] = rates[1] - rates[0]
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    sides = ((differences >= 0).mean(), (differences <= 0).mean())
    return Difference(measured[0], measured[1], float(low), float(high), float(min(1.0, 2 * min(sides))))
