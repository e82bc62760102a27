"""Which utterances make which update: a function of the seed and the epoch, known before the epoch begins.

An epoch is planned as a list of updates. An update's utterances are chosen first, by Lhotse's dynamic
bucketing, and then dealt to the processes and accumulation steps ("parts"). So every process has the same
number of steps, the sequence of updates does not depend on the number of processes (unless the joiner's size is what
bounds an update), and step n of an epoch is found without running through the n - 1 before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from lhotse import CutSet
from lhotse.augmentation import Speed
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler, DynamicCutSampler
from lhotse.dataset.sampling.base import CutSampler, SamplingConstraint

from asrkit.errors import UserError

NORMAL = Speed(factor=1.0)
Part = list[Cut]
"""The utterances of one forward pass of one process; empty where an update has fewer utterances than parts."""
Update = list[Part]
"""One optimizer step."""


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the model."""

    features: torch.Tensor
    """(B, T, F) float32, padded with 0."""
    feature_lens: torch.Tensor
    """(B,) int64."""
    tokens: torch.Tensor
    """(B, U) int64, padded with 0."""
    token_lens: torch.Tensor
    """(B,) int64."""
    cuts: CutSet
    augmented: dict[str, int]
    """How many utterances each augmentation changed."""
    views: int = 1
    """Times that each utterance is there: the B rows are one view of all utterances, then the next."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            features=self.features.to(device),
            feature_lens=self.feature_lens.to(device),
            tokens=self.tokens.to(device),
            token_lens=self.token_lens.to(device),
        )

    @property
    def num_utterances(self) -> int:
        """Rows by views."""
        return len(self.token_lens) // self.views

    @property
    def utterance_ids(self) -> list[str]:
        """Ids of the utterances."""
        return [cut.id for cut in self.cuts]


@dataclass(frozen=True)
class BatchBudget:
    """How large an update may be."""

    batch_seconds: float
    """Padded seconds of speech, over all parts; an update ends with the utterance that may exceed them."""
    lattice_budget: int
    """Entries B·T'·(U + 1)·V of the joiner's output, for each part."""
    parts: int
    """Processes × accumulation steps."""
    vocab_size: int
    frame_shift_s: float
    """Seconds between encoder frames."""
    growth: float = 1.0
    """How much longer augmentation may make an utterance."""
    prune_range: int = 0
    """Labels that the joiner sees at a frame; 0 for all."""
    views: int = 1
    """Presentations of each utterance."""

    def lattice(self, batch: int, duration_s: float, num_tokens: int) -> int:
        """Entries of the joiner's output of ``batch`` utterances padded to a duration and a label count."""
        frames = int(duration_s * self.growth / self.frame_shift_s) + 1
        columns = min(num_tokens + 1, self.prune_range or num_tokens + 1)
        return batch * self.views * frames * columns * self.vocab_size

    def joiner_fits(self, number: int, duration_s: float, num_tokens: int) -> bool:
        """Whether the joiner's output of each part of ``number`` utterances is small enough."""
        return self.lattice(-(-number // self.parts), duration_s, num_tokens) <= self.lattice_budget

    def fits(self, number: int, duration_s: float, num_tokens: int) -> bool:
        """Whether ``number`` utterances, padded to the longest duration and label count, make one update."""
        return number * duration_s <= self.batch_seconds and self.joiner_fits(number, duration_s, num_tokens)

    def require_fit(self, cuts: Sequence[Cut], num_tokens: Mapping[str, int]) -> None:
        """Refuses utterances that fit no batch.

        Raises:
            UserError: the longest and how many there are, with the setting.
        """
        ordered = sorted(cuts, key=lambda cut: -cut.duration)
        if too_long := [cut for cut in ordered if cut.duration > self.batch_seconds]:
            slowest = min(t.factor for cut in too_long for t in [*_speeds(cut), NORMAL])
            raise UserError(
                f"{too_long[0].id} lasts {too_long[0].duration:.1f} s, more than "
                f"train.batch_seconds={self.batch_seconds:g}{_others(too_long)}; raise it, or exclude what is longer "
                f"with asrkit prepare --force --max-seconds {int(self.batch_seconds * slowest)}"
            )
        needs = [(self.lattice(1, cut.duration, num_tokens[cut.id]), cut) for cut in ordered]
        if too_many := [(need, cut) for need, cut in needs if need > self.lattice_budget]:
            need, cut = max(too_many, key=lambda item: item[0])
            raise UserError(
                f"{cut.id} ({cut.duration:.1f} s, {num_tokens[cut.id]} labels) alone needs {need} joiner entries, more "
                f"than train.lattice_budget={self.lattice_budget}{_others([cut for _, cut in too_many])}; raise it, or "
                "exclude long utterances with asrkit prepare --force --max-seconds"
            )


def _speeds(cut: Cut) -> list[Speed]:
    """The changes of speed that made a cut of another one, which was shorter or longer by them."""
    return [t for t in (cut.recording.transforms or ()) if isinstance(t, Speed)] if cut.has_recording else []


def _others(cuts: Sequence[Cut]) -> str:
    return f", and so do {len(cuts) - 1} others" if len(cuts) > 1 else ""


class UpdateConstraint(SamplingConstraint):  # type: ignore[misc]  # Lhotse has no types
    """Tells Lhotse's sampler when an update is full."""

    def __init__(self, budget: BatchBudget, num_tokens: Mapping[str, int]) -> None:
        self.budget = budget
        self.num_tokens = num_tokens
        self.number = 0
        self.longest_s = 0.0
        self.most_tokens = 0

    def add(self, example: Cut) -> None:
        """Counts one more utterance."""
        self.number += 1
        self.longest_s = max(self.longest_s, example.duration)
        self.most_tokens = max(self.most_tokens, self.num_tokens[example.id])

    def exceeded(self) -> bool:
        """Whether the utterances so far are too many."""
        return not self.budget.fits(self.number, self.longest_s, self.most_tokens)

    def close_to_exceeding(self) -> bool:
        """Whether one more like the largest would be too many."""
        return not self.budget.fits(self.number + 1, self.longest_s, self.most_tokens)

    def reset(self) -> None:
        """Begins a new update."""
        self.number, self.longest_s, self.most_tokens = 0, 0.0, 0

    def measure_length(self, example: Cut) -> float:
        """What buckets are made by."""
        return float(example.duration)


def plan_epoch(
    cuts: Sequence[Cut],
    num_tokens: Mapping[str, int],
    budget: BatchBudget,
    *,
    seed: int,
    epoch: int,
    num_buckets: int = 10,
) -> list[Update]:
    """Plans every update of an epoch.

    Args:
        cuts: the epoch's utterances.
        num_tokens: label count by utterance id.
        budget: how large an update may be.
        seed: of the experiment.
        epoch: from 1.
        num_buckets: groups of similar duration.

    Returns:
        Updates of ``budget.parts`` parts each.

    Raises:
        UserError: no utterances, or one that fits no batch (the setting is named).
    """
    if not cuts:
        raise UserError("no utterances to train on")
    budget.require_fit(cuts, num_tokens)
    with warnings.catch_warnings():
        # An epoch's plan is made at once, so its cuts are in memory, against which the sampler warns.
        warnings.filterwarnings("ignore", message="You are using Dynamic.*Sampler with an eagerly")
        constraint, buckets = UpdateConstraint(budget, num_tokens), min(num_buckets, len(cuts) // 2)
        settings = {"constraint": constraint, "shuffle": True, "seed": seed, "world_size": 1, "rank": 0}
        sampler: CutSampler = (
            DynamicBucketingSampler(CutSet.from_cuts(cuts), num_buckets=buckets, **settings)
            if buckets > 1
            else DynamicCutSampler(CutSet.from_cuts(cuts), **settings)
        )
    sampler.set_epoch(epoch)
    return [
        _deal(update, budget.parts) for batch in sampler for update in _within_lattice(list(batch), num_tokens, budget)
    ]


def _within_lattice(cuts: list[Cut], num_tokens: Mapping[str, int], budget: BatchBudget) -> list[list[Cut]]:
    """Halves of what the sampler overfilled: it asks whether there is room for one more like those that are there, and
    the one that comes may be longer. For ``batch_seconds`` that is no harm; the joiner would not fit into memory."""
    longest, most = max(cut.duration for cut in cuts), max(num_tokens[cut.id] for cut in cuts)
    if len(cuts) == 1 or budget.joiner_fits(len(cuts), longest, most):
        return [cuts]
    ordered, middle = sorted(cuts, key=lambda cut: (cut.duration, cut.id)), len(cuts) // 2
    return [half for part in (ordered[:middle], ordered[middle:]) for half in _within_lattice(part, num_tokens, budget)]


def _deal(cuts: list[Cut], parts: int) -> Update:
    """Deals an update's utterances to ``parts`` like cards, in order of length, so that none has more to do."""
    ordered = sorted(cuts, key=lambda cut: (cut.duration, cut.id))
    return [ordered[i::parts] for i in range(parts)]


def inference_batches(cuts: Sequence[Cut], batch_seconds: float) -> list[Part]:
    """Utterances in batches of at most ``batch_seconds`` padded seconds, longest first, neighbours in length."""
    batches: list[Part] = []
    for cut in sorted(cuts, key=lambda cut: (-cut.duration, cut.id)):
        if batches and (len(batches[-1]) + 1) * batches[-1][0].duration <= batch_seconds:
            batches[-1].append(cut)
        else:
            batches.append([cut])
    return batches
