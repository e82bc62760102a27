"""The learners of a training: which one this is, what they agree on, and how they share work and weights.

The loop depends on :class:`Learners` only, whatever the method. :class:`AllReduce` is synchronous SGD: all learners
have the same weights, and an update is their mean gradient.
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
    """Why the learners interrupt their steps."""

    NONE = "they do not"
    LEAVE = "to learn why in the next round"
    SAVE = "to save"
    STOP = "to save and stop"


@dataclass(frozen=True)
class Round:
    """What remains of an epoch."""

    order: Sequence[int]
    """Shares that a learner claims, in order."""
    done: int
    """Steps done, the same for all learners."""
    pause: Pause = Pause.NONE
    """What to do first."""


class Learners(Protocol):
    """What a training needs from its learners."""

    @property
    def rank(self) -> int:
        """Number of this learner, from 0."""

    @property
    def world_size(self) -> int:
        """Number of learners."""

    @property
    def device(self) -> torch.device:
        """Where this learner trains."""

    @property
    def is_main(self) -> bool:
        """Whether this is the learner that writes files and shows progress."""

    def agree(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any learner; all must call this at the same point."""

    def gather(self, value: Value) -> list[Value]:
        """``value`` of every learner, by rank."""

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """``counts`` summed over all learners, by name."""

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module whose forward pass is called; ``all_used`` says whether every parameter gets a gradient."""

    def without_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Context of every backward pass of an update but the last."""

    @property
    def in_step(self) -> AllReduce:
        """The learners that make each step together, and agree on what happens within it."""

    @property
    def place(self) -> tuple[int, int]:
        """Index of this learner among those present, and their number; they share the work on dev."""

    def begin(self, module: nn.Module) -> int | None:
        """Called before the first step, when the module has its weights. Returns None if all start together; a learner
        that joins later takes the others' weights, and returns their epoch."""

    def round(self, epoch: int, num_steps: int, done: int) -> Round:
        """The shares of an epoch's steps that this learner claims, in order; none once the epoch is done.

        A step has ``shares`` of them: number k is share ``k % shares`` of step ``k // shares``. All call this at the
        same point, repeatedly until no share is left.

        Args:
            epoch: from 1.
            num_steps: of the epoch.
            done: steps done, by this learner's count.
        """

    def proceed(self, module: nn.Module) -> None:
        """Called before the steps of a round."""

    @property
    def shares(self) -> int:
        """Shares of a step, whose gradients are computed separately."""

    def claim(self, share: int) -> Claim:
        """Claims a share for this learner."""

    def slot(self, share: int) -> int:
        """Which of the ``world_size`` equal slices of a step's parts this process reads for a share."""

    def watch(self, module: nn.Module, again: Callable[[], float], lr: float) -> None:
        """Called with an update's gradient, before clipping. ``again`` adds the gradient of the same batches at the
        module's current weights, times the scale it returns. The module's gradient must be left unchanged."""

    def before_step(self, module: nn.Module) -> None:
        """Called between an update's gradient and its step."""

    def after_step(self, module: nn.Module) -> None:
        """Called after an update's step."""

    def pause(self, stop: bool, step: int, every: int) -> Pause:
        """Called after each step: what all do now. Any learner may ask to ``stop``; ``step`` steps are done by this
        learner's count, and a save is due every ``every`` steps."""

    def consensus(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """While entered, the module has the weights that are evaluated, saved and shipped."""

    def diagnostics(self, module: nn.Module) -> dict[str, Any]:
        """The learners' values in an epoch's line of metrics.jsonl; all call this at the same point."""

    def state_dict(self) -> dict[str, Any]:
        """The learners' common state in a checkpoint."""

    def load_state_dict(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Restores what :meth:`state_dict` returned, from a checkpoint after ``step`` steps of an epoch."""

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Writes this learner's own state, before the checkpoint ``stem``; all call this at the same point."""

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Loads the weights that :meth:`save_own` wrote and returns the state with them, None if there are none.

        All call this at the same point, after ``updates`` updates.
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
        """Whether ``flag`` is set in any learner; all must call this at the same point."""
        if self.world_size == 1:
            return flag
        shared = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def gather(self, value: Value) -> list[Value]:
        """``value`` of every learner, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """``counts`` summed over all learners, by name."""
        return added(self.gather(dict(counts)))

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module whose backward pass averages gradients over the learners."""
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=not all_used)

    def without_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Context of every backward pass of an update but the last: gradients stay local."""
        if isinstance(wrapped, DistributedDataParallel):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    @property
    def in_step(self) -> AllReduce:
        """All learners."""
        return self

    @property
    def place(self) -> tuple[int, int]:
        """Rank and number of learners."""
        return self.rank, self.world_size

    def begin(self, module: nn.Module) -> int | None:
        """None: all start together."""
        return None

    def round(self, epoch: int, num_steps: int, done: int) -> Round:
        """This learner's share of each step."""
        order = range(done * self.world_size + self.rank, num_steps * self.world_size, self.world_size)
        return Round(order, done)

    def proceed(self, module: nn.Module) -> None:
        """Nothing: the learners are synchronous."""

    @property
    def shares(self) -> int:
        """One for each learner."""
        return self.world_size

    def claim(self, share: int) -> Claim:
        """Granted: each learner has its own shares."""
        return Claim.MINE

    def slot(self, share: int) -> int:
        """By rank."""
        return self.rank

    def watch(self, module: nn.Module, again: Callable[[], float], lr: float) -> None:
        """Nothing: there is one model."""

    def before_step(self, module: nn.Module) -> None:
        """Nothing: the backward pass has averaged the gradients."""

    def after_step(self, module: nn.Module) -> None:
        """Nothing: all learners made the same step."""

    def pause(self, stop: bool, step: int, every: int) -> Pause:
        """All count the same steps; a signal may reach any of them."""
        if self.agree(stop):
            return Pause.STOP
        return Pause.NONE if step % every else Pause.SAVE

    def consensus(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Nothing: all learners have the same weights."""
        return contextlib.nullcontext()

    def diagnostics(self, module: nn.Module) -> dict[str, Any]:
        """Nothing: there is one model."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: there is no state but the loop's."""
        return {}

    def load_state_dict(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Nothing."""

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Nothing: the checkpoint is complete."""

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Nothing: the checkpoint is complete."""
        return None


def added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sums of the values, by name."""
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0) + value
    return totals


def raise_together(learners: Learners, problem: str) -> None:
    """Raises the problem of any learner in all of them, so that none waits for the others; all call this together.

    Raises:
        UserError: ``problem`` of the first learner that has one.
    """
    if learners.agree(bool(problem)):
        raise UserError(next(message for message in learners.gather(problem) if message))


def is_first_process() -> bool:
    """Whether this process is the first learner; known before the learners join."""
    return int(os.environ.get("RANK", 0)) == 0


def only_process_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """While entered, no other training works in a folder; the first learner locks it for all.

    Raises:
        UserError: another process works there.
    """
    return exclusive(folder) if is_first_process() else contextlib.nullcontext()
