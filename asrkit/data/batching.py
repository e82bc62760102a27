"""The utterances of each update: a function of the seed and the epoch, known before the epoch begins.

An epoch is planned on arrays of durations and label counts. They are ordered so that neighbours are similar in length,
the order is cut into updates, and the updates are shuffled. An update's utterances are distributed over the processes
and accumulation steps ("parts"). So every process has the same number of steps, the sequence of updates does not depend
on the number of processes (unless the joiner's size bounds an update), and step n of an epoch can be computed without
the steps before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lhotse.augmentation import Speed
from lhotse.cut import Cut

from asrkit.errors import UserError
from asrkit.lazy import LazySequence
from asrkit.randomness import seeded_generator

Part = np.ndarray
"""(b, 2): number and draw of each utterance in one forward pass of one process; the draw counts earlier presentations
of the utterance in this epoch. Empty if an update has fewer utterances than parts."""
Update = list[Part]
"""One optimizer step."""
NORMAL = Speed(factor=1.0)
POOL = 2
"""Updates whose utterances are sorted together: more give less padding, but repeat the same updates."""
LANE = 4096
"""Utterances that are cut into updates sequentially; lanes of this many are cut in parallel."""
MS_BITS, TIE_BITS = 24, 10


@dataclass(frozen=True)
class Batch:
    """Input of the model from the loader."""

    features: torch.Tensor
    """(B, T, F) float32, padded with 0."""
    feature_lens: torch.Tensor
    """(B,) int64."""
    tokens: torch.Tensor
    """(B, U) int64, padded with 0."""
    token_lens: torch.Tensor
    """(B,) int64."""
    cuts: Sequence[Cut]
    """One for each utterance; with replacement, a cut may occur twice."""
    augmented: dict[str, int]
    """Number of utterances changed by each augmentation."""
    views: int = 1
    """Views of each utterance: the B rows are the first view of all utterances, then the second."""
    unlabelled: Batch | None = None
    """Utterances without transcripts, for the unsupervised loss of the same update."""
    seeds: Sequence[int] = ()
    """Seeds of the random decisions of training, such as masks, one for each utterance."""
    counts: bool = True
    """False if the batch only replaces an empty part, as all processes must take part in an update."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            features=self.features.to(device),
            feature_lens=self.feature_lens.to(device),
            tokens=self.tokens.to(device),
            token_lens=self.token_lens.to(device),
            unlabelled=self.unlabelled.to(device) if self.unlabelled else None,
        )

    @property
    def num_utterances(self) -> int:
        """Rows per view."""
        return len(self.token_lens) // self.views

    @property
    def utterance_ids(self) -> list[str]:
        """Ids of the utterances."""
        return [cut.id for cut in self.cuts]


@dataclass(frozen=True)
class BatchBudget:
    """Limits of an update."""

    batch_seconds: float
    """Padded seconds of speech, over all parts."""
    lattice_budget: int
    """Entries B·T'·(U + 1)·V of the joiner's output, for each part."""
    parts: int
    """Processes × accumulation steps."""
    vocab_size: int
    frame_shift_s: float
    """Seconds between encoder frames."""
    growth: float = 1.0
    """Factor by which augmentation may lengthen an utterance."""
    prune_range: int = 0
    """Labels that the joiner sees per frame; 0 for all."""
    views: int = 1
    """Presentations of each utterance."""

    def lattice(self, batch: np.ndarray, duration_s: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
        """Entries of the joiner's output for ``batch`` utterances padded to a duration and a label count."""
        frames = (duration_s * self.growth / self.frame_shift_s).astype(np.int64) + 1
        columns = num_tokens.astype(np.int64) + 1
        if self.prune_range:
            columns = np.minimum(columns, self.prune_range)
        entries: np.ndarray = batch * (self.views * self.vocab_size) * frames * columns
        return entries

    def fits(self, number: np.ndarray, duration_s: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
        """Whether ``number`` utterances, padded to the longest duration and label count, fit one update."""
        joiner = self.lattice(-(-number // self.parts), duration_s, num_tokens) <= self.lattice_budget
        fitting: np.ndarray = (number * duration_s <= self.batch_seconds) & joiner
        return fitting

    def require_fit(self, durations_s: np.ndarray, num_tokens: np.ndarray, cut: Callable[[int], Cut]) -> None:
        """Rejects utterances that fit no batch.

        Args:
            durations_s: (N,).
            num_tokens: (N,).
            cut: returns an utterance by number, to name it.

        Raises:
            UserError: names the longest, their number and the setting.
        """
        too_long = np.flatnonzero(durations_s > self.batch_seconds)
        if len(too_long):
            longest = cut(int(too_long[durations_s[too_long].argmax()]))
            slowest = min(t.factor for t in [*_speeds(longest), NORMAL])
            raise UserError(
                f"{longest.id} lasts {longest.duration:.1f} s, more than "
                f"train.batch_seconds={self.batch_seconds:g}{_others(len(too_long))}; raise it, or exclude what is "
                f"longer with asrkit prepare --force --max-seconds {int(self.batch_seconds * slowest)}"
            )
        needs = self.lattice(np.ones(1, np.int64), durations_s, num_tokens)
        too_many = np.flatnonzero(needs > self.lattice_budget)
        if len(too_many):
            number = int(too_many[needs[too_many].argmax()])
            worst = cut(number)
            raise UserError(
                f"{worst.id} ({worst.duration:.1f} s, {num_tokens[number]} labels) alone needs {needs[number]} joiner "
                f"entries, more than train.lattice_budget={self.lattice_budget}{_others(len(too_many))}; raise it, or "
                "exclude long utterances with asrkit prepare --force --max-seconds"
            )


def _speeds(cut: Cut) -> list[Speed]:
    """The speed perturbations that produced a cut from a shorter or longer one."""
    return [t for t in (cut.recording.transforms or ()) if isinstance(t, Speed)] if cut.has_recording else []


def _others(number: int) -> str:
    return f", and so do {number - 1} others" if number > 1 else ""


@dataclass(frozen=True)
class EpochPlan(LazySequence[Update]):
    """All updates of an epoch."""

    rows: np.ndarray
    """(n, 2) number and draw of each presentation, update after update."""
    durations_s: np.ndarray
    """(N,) of all utterances, by number."""
    starts: np.ndarray
    """(updates + 1,) where each begins in ``rows``."""
    order: np.ndarray
    """(updates,) the order in which they run."""
    parts: int

    def __len__(self) -> int:
        return len(self.order)

    def item(self, step: int) -> Update:
        """An update."""
        rows = self.rows_of(step)
        # Distributed in order of length, so that all parts have similar work.
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0], self.durations_s[rows[:, 0]]))]
        return [rows[part :: self.parts] for part in range(self.parts)]

    def rows_of(self, step: int) -> np.ndarray:
        """The presentations of an update."""
        place = self.order[step]
        rows: np.ndarray = self.rows[self.starts[place] : self.starts[place + 1]]
        return rows

    def padding_share(self) -> float:
        """Share of padding in the padded seconds of all updates."""
        seconds = self.durations_s[self.rows[:, 0]]
        padded = np.maximum.reduceat(seconds, self.starts[:-1]) * np.diff(self.starts)
        return float(1 - seconds.sum() / padded.sum())


def plan_epoch(
    durations_s: np.ndarray,
    num_tokens: np.ndarray,
    budget: BatchBudget,
    *,
    seed: int,
    epoch: int,
    num_buckets: int = 10,
    drawn: np.ndarray | None = None,
    stream: str = "",
) -> EpochPlan:
    """Plans every update of an epoch, in O(n log n).

    Buckets contain utterances of similar duration and an equal amount of speech. A bucket is randomly divided into
    pools of :data:`POOL` updates. Pools are sorted by duration, every second one in descending order, and the sequence
    of pools is cut where an update is full.

    Args:
        durations_s: (N,) of all utterances.
        num_tokens: (N,) label counts.
        budget: limits of an update; each utterance must fit (:meth:`BatchBudget.require_fit`).
        seed: of the experiment.
        epoch: from 1.
        num_buckets: groups of similar duration.
        drawn: (n,) numbers of this epoch's utterances, which may repeat; all if None.
        stream: distinguishes plans with the same seed and epoch.

    Raises:
        UserError: no utterances.
    """
    numbers = np.arange(len(durations_s)) if drawn is None else drawn
    if not len(numbers):
        raise UserError("no utterances to train on")
    generator = seeded_generator("plan", *filter(None, [stream]), seed, epoch)
    numbers = numbers[_by_length(durations_s[numbers], budget.batch_seconds, num_buckets, generator)]
    starts = np.flatnonzero(_starts_update(durations_s[numbers], num_tokens[numbers], budget))
    order = torch.randperm(len(starts), generator=generator).numpy()
    draws = np.zeros(len(numbers), np.int64) if drawn is None else occurrences(numbers)
    rows = np.stack([numbers, draws], axis=1)
    return EpochPlan(rows, durations_s, np.append(starts, len(numbers)), order, budget.parts)


def occurrences(numbers: np.ndarray) -> np.ndarray:
    """(n,) how often each number has occurred before: 0 for the first, 1 for the second."""
    order = np.argsort(numbers, kind="stable")
    ranked = numbers[order]
    begins = np.flatnonzero(np.diff(ranked, prepend=ranked[0] - 1))
    counts = np.empty(len(numbers), np.int64)
    counts[order] = np.arange(len(numbers)) - np.repeat(begins, np.diff(np.append(begins, len(numbers))))
    return counts


def _by_length(seconds: np.ndarray, batch_seconds: float, num_buckets: int, generator: torch.Generator) -> np.ndarray:
    """(n,) an order of n utterances in which neighbours are similar in length, by sorting one integer key each."""
    milliseconds = np.minimum((seconds * 1000).astype(np.int64), (1 << MS_BITS) - 1)
    speech_by_ms = np.bincount(milliseconds, weights=seconds)
    until = np.cumsum(speech_by_ms)
    # The bucket of a duration, from the amount of shorter speech.
    bucket_by_ms = np.minimum((until - speech_by_ms) * num_buckets / until[-1], num_buckets - 1).astype(np.int64)
    bucket = bucket_by_ms[milliseconds]
    pools = np.maximum(1, np.rint(np.bincount(bucket, seconds, num_buckets) / (POOL * batch_seconds)).astype(np.int64))
    random = torch.randint(1 << 62, (len(seconds),), generator=generator).numpy()
    pool = (random >> TIE_BITS) % pools[bucket] + np.append(0, np.cumsum(pools))[bucket]
    length = np.where(pool % 2 == 0, milliseconds, (1 << MS_BITS) - 1 - milliseconds)
    key = (pool << (MS_BITS + TIE_BITS)) | (length << TIE_BITS) | (random & ((1 << TIE_BITS) - 1))
    return np.argsort(key, kind="stable")


def _starts_update(seconds: np.ndarray, num_tokens: np.ndarray, budget: BatchBudget) -> np.ndarray:
    """(n,) whether an utterance begins an update; an update takes as many as fit, in order."""
    lanes = max(1, len(seconds) // LANE)
    width = -(-len(seconds) // lanes)
    first = np.ones((width, lanes), bool)
    shape = width * lanes
    by_step = np.zeros((2, shape))  # the rest of the last lane is empty
    by_step[0, : len(seconds)], by_step[1, : len(seconds)] = seconds, num_tokens
    duration, tokens = (np.ascontiguousarray(row.reshape(lanes, width).T) for row in by_step)
    number = np.ones(lanes, np.int64)
    longest, most = duration[0], tokens[0]
    for n in range(1, width):
        longest, most = np.maximum(longest, duration[n]), np.maximum(most, tokens[n])
        fits = budget.fits(number + 1, longest, most)
        number = np.where(fits, number + 1, 1)
        longest, most = np.where(fits, longest, duration[n]), np.where(fits, most, tokens[n])
        first[n] = ~fits
    return first.T.reshape(-1)[: len(seconds)]


def inference_batches(durations_s: np.ndarray, batch_seconds: float) -> list[Part]:
    """Batches of at most ``batch_seconds`` padded seconds, longest utterances first, similar lengths together.

    Args:
        durations_s: (N,).
        batch_seconds: limit of a batch; a longer utterance gets its own.
    """
    order = np.argsort(-durations_s, kind="stable")
    batches: list[list[int]] = []
    for number in order.tolist():
        if batches and (len(batches[-1]) + 1) * durations_s[batches[-1][0]] <= batch_seconds:
            batches[-1].append(number)
        else:
            batches.append([number])
    return [np.array([(number, 0) for number in batch]) for batch in batches]
