"""The learners of one training: who this one is, what all agree on, and how they share the work and the weights.

The loop asks a :class:`Learners` and knows no method's name. :class:`AllReduce` is synchronous SGD: every learner has
the same weights, an update is the mean gradient of all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from asrkit.devices import choose_device
from asrkit.errors import UserError
from asrkit.files import exclusive

Value = TypeVar("Value")


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

    def claim(self, parts: Sequence[Value]) -> Sequence[Value]:
        """The parts of an update that are this learner's."""

    def before_step(self, module: nn.Module) -> None:
        """Between an update's gradient and its step."""

    def after_step(self, module: nn.Module) -> None:
        """After an update's step."""

    def consensus(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """While entered, the module has the weights that are evaluated, saved and shipped."""

    def diagnostics(self, module: nn.Module) -> dict[str, float]:
        """What an epoch's line of metrics.jsonl says of the learners; all ask at the same point."""

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
        totals: dict[str, float] = {}
        for part in self.gather(dict(counts)):
            for name, value in part.items():
                totals[name] = totals.get(name, 0) + value
        return totals

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

    def claim(self, parts: Sequence[Value]) -> Sequence[Value]:
        """An equal share of the parts of an update, in the order of ranks."""
        number = len(parts) // self.world_size
        return parts[self.rank * number : (self.rank + 1) * number]

    def before_step(self, module: nn.Module) -> None:
        """Nothing: the backward pass has averaged the gradients."""

    def after_step(self, module: nn.Module) -> None:
        """Nothing: all learners made the same step."""

    def consensus(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Its own weights: all learners have the same."""
        return contextlib.nullcontext()

    def diagnostics(self, module: nn.Module) -> dict[str, float]:
        """Nothing: there is one model."""
        return {}

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Nothing: the checkpoint has all."""

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Nothing: the checkpoint has all."""
        return None


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


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[tuple[int, int, torch.device]]:
    """Joins the processes that ``torchrun`` started (gloo on CPU, nccl on CUDA); alone without it.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Yields:
        Number of this process, how many there are, and where this one trains.
    """
    chosen = choose_device(device)
    use_cuda = chosen.type == "cuda"
    if use_cuda:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield 0, 1, chosen
        return
    if use_cuda:
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if use_cuda else "gloo")
    yield dist.get_rank(), dist.get_world_size(), chosen
    dist.destroy_process_group()  # after an error the others may be gone, and this would wait for them
