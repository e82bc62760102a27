"""The processes of one training: who this one is, and what all must agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from asrkit.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One process of a training."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in any process; all must call it at the same point."""
        if self.world_size == 1:
            return flag
        shared = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def gather(self, value: T) -> list[T]:
        """``value`` of every process, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def total(self, counts: Mapping[str, T]) -> dict[str, T]:
        """``counts`` of all processes, those of one name added."""
        totals: dict[str, Any] = {}
        for part in self.gather(counts):
            for name, value in part.items():
                totals[name] = totals.get(name, 0) + value
        return totals


def choose_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        UserError: CUDA is wanted and not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device=cuda, but torch finds no CUDA device here; asrkit doctor tells what it sees")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


@contextmanager
def process_group(device: str) -> Iterator[Process]:
    """Joins the processes that ``torchrun`` started (gloo on CPU, nccl on CUDA); alone without it.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    chosen = choose_device(device)
    use_cuda = chosen.type == "cuda"
    if use_cuda:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield Process(0, 1, chosen)
        return
    if use_cuda:
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if use_cuda else "gloo")
    yield Process(dist.get_rank(), world_size, chosen)
    dist.destroy_process_group()  # after an error the others may be gone, and this would wait for them
