"""What is trained: the interface that :class:`asrkit.training.loop.Loop` expects of every task."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from asrkit.config_training import TrainConfig
from asrkit.data.loaders import LoaderError
from asrkit.distributed.learners import Learners
from asrkit.lazy import LazySequence
from asrkit.training.checkpoint import CheckpointFolder
from asrkit.training.objective import Trainable
from asrkit.training.phase import Phase


@dataclass(frozen=True)
class Step:
    """One update."""

    parts: Sequence[Any]
    """What each forward pass reads, for all learners and accumulation steps; some may be empty."""
    number: int
    """Utterances or symbols of all parts: the update is the mean over them."""
    phase: Phase


def parts_in_slot(step: Step, slot: int, slots: int) -> Sequence[Any]:
    """The equal, contiguous share of a step's parts in one slot."""
    number = len(step.parts) // slots
    return step.parts[slot * number : (slot + 1) * number]


class OwnParts(LazySequence[list[Any]]):
    """One learner's parts for each of its shares.

    A learner with an empty part still reads one utterance, as all must take part in a step.
    """

    def __init__(self, plan: Sequence[Step], learners: Learners, order: Sequence[int]) -> None:
        self.plan, self.learners, self.order = plan, learners, order

    def __len__(self) -> int:
        return len(self.order)

    def item(self, number: int) -> list[Any]:
        """The parts of a share."""
        share = self.order[number]
        step = self.plan[share // self.learners.shares]
        own = parts_in_slot(step, self.learners.slot(share), self.learners.world_size)
        return [part if len(part) else step.parts[0][:1] for part in own]


class Task(Protocol):
    """Knows its data, its losses and its measure; knows nothing of optimizers, learners or checkpoints."""

    module: Trainable
    settings: TrainConfig
    num_epochs: int
    """Of the complete training."""
    dev_measure: str
    """Name in metrics.jsonl of what :meth:`measure` returns, such as ``dev_wer``."""
    epochs_kept: int
    """Last epochs whose weights :meth:`finish` may need; at least 2."""

    def plan(self, epoch: int) -> Sequence[Step]:
        """All updates of an epoch: a function of the seed and the epoch."""

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """The rate after a fraction of an epoch (from 1)."""

    def batches(self, parts: Sequence[Sequence[Any]], epoch: int) -> Generator[list[Any] | LoaderError, None, None]:
        """This learner's batches, one list per share."""

    def counts(self, batch: Any) -> dict[str, float]:
        """What a batch adds to the epoch's sums besides its losses."""

    def describe(self, batch: Any) -> str:
        """Which utterances or lines a batch holds, for errors."""

    def measure(self, epoch: int) -> float | None:
        """Model quality on dev, lower is better; None if no measurement is due. All learners call it together."""

    def status(self, sums: Mapping[str, float], seconds: float) -> str:
        """Progress bar text on what this run has added to an epoch's sums in ``seconds``."""

    def epoch_values(self, sums: Mapping[str, float]) -> dict[str, Any]:
        """An epoch's values in metrics.jsonl besides those the loop adds."""

    def summary(self, values: Mapping[str, Any]) -> str:
        """An epoch's line of metrics.jsonl as readable text."""

    def save(self, path: Path) -> None:
        """Writes the model file of a checkpoint."""

    def finish(self, checkpoints: CheckpointFolder, best_epoch: int) -> None:
        """Writes the final model; called by one learner."""
