"""The learners of one training: who this one is, what all agree on, and how they share the work and the weights.

The loop asks a :class:`Learners` and knows no method's name. :class:`AllReduce` is synchronous SGD: every learner has
the same weights, an update is the mean gradient of all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from asrkit.distributed.work_queue import Claim
from asrkit.errors import UserError
from asrkit.files import exclusive

Value = TypeVar("Value")


class Pause(Enum):
    """Why the learners leave their steps."""

    NONE = "they do not"
    LEAVE = "to hear why, in the next round"
    SAVE = "to save"
    STOP = "to save and stop"


@dataclass(frozen=True)
class Round:
    """What is to do of an epoch."""

    order: Sequence[int]
    """Shares that a learner asks for, in their order."""
    done: int
    """Steps that are done, the same for all."""
    pause: Pause = Pause.NONE
    """What is to do before."""


class Learners(Protocol):
    """What a training needs of its learners."""

    @property
    def rank(self) -> int:
        """Number of this learner, from 0."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    @property
    def device(self) -> torch.device:
        """Where this one trains."""

    @property
    def is_main(self) -> bool:
        """Whether this is the learner that writes files and shows progress."""

    def agree(self, flag: bool) -> bool:
        """Whether ``flag`` holds for any learner; all must ask at the same point."""

    def gather(self, value: Value) -> list[Value]:
        """``value`` of every learner, in the order of ranks."""

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """``counts`` of all learners, those of one name added."""

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module as its forward pass is called; ``all_used`` says whether every parameter gets a gradient."""

    def without_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """For all backward passes of an update but the last."""

    @property
    def in_step(self) -> AllReduce:
        """Those who make each step together: what happens within a step is asked among them."""

    @property
    def place(self) -> tuple[int, int]:
        """Number of this learner among those present, and how many they are: who measures what on dev."""

    def begin(self, module: nn.Module) -> int | None:
        """Before the first step, when the module has its weights: the epoch that the others are in, whose weights are
        taken over, or None where all begin together."""

    def round(self, epoch: int, num_steps: int, done: int) -> Round:
        """The shares of an epoch's steps that this learner asks for, in their order; none once the epoch is done.

        A step has ``shares``: number k is share ``k % shares`` of step ``k // shares``. All ask at the same point,
        again and again until none is left.

        Args:
            epoch: from 1.
            num_steps: of the epoch.
            done: of them, by the count of this learner.
        """

    def proceed(self, module: nn.Module) -> None:
        """To the steps of a round."""

    @property
    def shares(self) -> int:
        """Of a step: how many gradients are taken apart from each other."""

    def claim(self, share: int) -> Claim:
        """Whether a share is this learner's to do."""

    def slot(self, share: int) -> int:
        """Of the ``world_size`` equal runs of a step's parts, the number of the one that a share holds for this
        process."""

    def watch(self, module: nn.Module, again: Callable[[], float], lr: float) -> None:
        """When an update's gradient is there, before it is clipped: ``again`` adds that of the same batches at the
        weights that the module has then, times the scale it returns. The module's gradient is to be left as it was."""

    def before_step(self, module: nn.Module) -> None:
        """Between an update's gradient and its step."""

    def after_step(self, module: nn.Module) -> None:
        """After an update's step."""

    def pause(self, stop: bool, step: int, every: int) -> Pause:
        """After each step: what all do now, of whom any may ask to stop; ``step`` steps are done by the count of this
        learner, and ``every`` so many are saved."""

    def consensus(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """While entered, the module has the weights that are evaluated, saved and shipped."""

    def diagnostics(self, module: nn.Module) -> dict[str, Any]:
        """What an epoch's line of metrics.jsonl says of the learners; all ask at the same point."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the learners together."""

    def load_state_dict(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Takes what :meth:`state_dict` gave, in a checkpoint after ``step`` steps of an epoch."""

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Writes what this learner has of its own, before the checkpoint ``stem``; all ask at the same point."""

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Takes the weights that :meth:`save_own` wrote and returns the state with them, None where there are none.

        All ask at the same point, after so many updates.
        """


@dataclass(frozen=True)
class AllReduce:
    """Synchronous SGD; with one learner, plain SGD."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this is the learner that writes files and shows progress."""
        return self.rank == 0

    def agree(self, flag: bool) -> bool:
        """Whether ``flag`` holds for any learner; all must ask at the same point."""
        if self.world_size == 1:
            return flag
        shared = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def gather(self, value: Value) -> list[Value]:
        """``value`` of every learner, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """``counts`` of all learners, those of one name added."""
        return added(self.gather(dict(counts)))

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module whose backward pass averages gradients over the learners."""
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=not all_used)

    def without_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """For all backward passes of an update but the last: gradients stay local."""
        if isinstance(wrapped, DistributedDataParallel):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    @property
    def in_step(self) -> AllReduce:
        """All of them."""
        return self

    @property
    def place(self) -> tuple[int, int]:
        """Rank, and all learners."""
        return self.rank, self.world_size

    def begin(self, module: nn.Module) -> int | None:
        """All begin together."""
        return None

    def round(self, epoch: int, num_steps: int, done: int) -> Round:
        """This learner's share of each step."""
        order = range(done * self.world_size + self.rank, num_steps * self.world_size, self.world_size)
        return Round(order, done)

    def proceed(self, module: nn.Module) -> None:
        """Nothing: they are in step."""

    @property
    def shares(self) -> int:
        """One for each learner."""
        return self.world_size

    def claim(self, share: int) -> Claim:
        """Its own."""
        return Claim.MINE

    def slot(self, share: int) -> int:
        """In the order of ranks."""
        return self.rank

    def watch(self, module: nn.Module, again: Callable[[], float], lr: float) -> None:
        """Nothing: there is one model."""

    def before_step(self, module: nn.Module) -> None:
        """Nothing: the backward pass has averaged the gradients."""

    def after_step(self, module: nn.Module) -> None:
        """Nothing: all learners made the same step."""

    def pause(self, stop: bool, step: int, every: int) -> Pause:
        """All count their steps alike; a signal may come to any of them."""
        if self.agree(stop):
            return Pause.STOP
        return Pause.NONE if step % every else Pause.SAVE

    def consensus(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Its own weights: all learners have the same."""
        return contextlib.nullcontext()

    def diagnostics(self, module: nn.Module) -> dict[str, Any]:
        """Nothing: there is one model."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: they have no state but the loop's."""
        return {}

    def load_state_dict(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Nothing."""

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Nothing: the checkpoint has all."""

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Nothing: the checkpoint has all."""
        return None


def added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The values of one name added."""
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0) + value
    return totals


def raise_together(learners: Learners, refused: str) -> None:
    """Raises in all learners what any of them has to refuse, so that none waits for the others; all ask together.

    Raises:
        UserError: ``refused`` of the first learner where it is not empty.
    """
    if learners.agree(bool(refused)):
        raise UserError(next(message for message in learners.gather(refused) if message))


def is_first_process() -> bool:
    """Whether this process will be the first of the learners, before they join."""
    return int(os.environ.get("RANK", 0)) == 0


def only_process_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """While entered, no other training works in a folder; the first of the learners holds it for all.

    Raises:
        UserError: another process works there.
    """
    return exclusive(folder) if is_first_process() else contextlib.nullcontext()
