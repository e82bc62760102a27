"""DPSGD: learners that average with their neighbours while they compute (Zhang et al. 2021, arXiv 2112.01433).

Each learner keeps weights and optimizer state of its own. Its step is w_j ← Σ_k T_jk w_k − α ∇L_j(w_j): neighbours'
weights are on their way while the gradient is computed at the learner's own, and take its place just before the
optimizer's step. What is evaluated, saved and shipped is the mean of all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from asrkit.console import log
from asrkit.distributed.learners import AllReduce
from asrkit.distributed.mixing import mixing_matrix
from asrkit.distributed.updates import mixed
from asrkit.records import digest
from asrkit.tensor_files import write_state

LEARNER = ".learner-"
"""In the name of a file that one learner wrote next to a checkpoint."""
DIGEST = ".sha256"


@dataclass
class Exchange:
    """Weights on their way."""

    step: int = 0
    """Updates done, of which the mixing matrix is a function."""
    own: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """(d,) this learner's weights at the start of the update."""
    neighbours: list[int] = field(default_factory=list)
    received: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """(neighbours, d)."""
    pending: list[dist.Work] = field(default_factory=list)
    waited_s: float = 0.0
    started: bool = False
    restored: bool = False
    """Whether the weights are those that this learner had itself, and not the same for all."""


@dataclass(frozen=True)
class Dpsgd(AllReduce):
    """Learners in step, each with weights of its own."""

    mixing: str = "ring"
    """A kind of :func:`asrkit.distributed.mixing.mixing_matrix`."""
    seed: int = 0
    exchange: Exchange = field(default_factory=Exchange)
    group: dist.ProcessGroup | None = None
    """Of the weights on their way; nccl would make the collectives of the loop wait for them in the default one."""

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module itself: gradients stay local. At the start all learners take the first one's weights."""
        if self.world_size > 1 and not self.exchange.started:
            self.exchange.started, own = True, flattened(module)
            if not self.exchange.restored:
                dist.broadcast(own, 0)
                assign(module, own)
            self._send(own)
        return module

    def before_step(self, module: nn.Module) -> None:
        """Puts the average of the neighbourhood in the place of the weights."""
        if self.world_size == 1:
            return
        exchange, row = self.exchange, self._row()
        self._wait()
        coefficients = torch.stack([row[self.rank], *(row[k] for k in exchange.neighbours)])
        weights = torch.cat([exchange.own[None], exchange.received])
        assign(module, mixed(weights, coefficients[None])[0])

    def after_step(self, module: nn.Module) -> None:
        """Sends the new weights to the next neighbours."""
        if self.world_size == 1:
            return
        self.exchange.step += 1
        self._send(flattened(module))

    @contextlib.contextmanager
    def consensus(self, module: nn.Module) -> Iterator[None]:
        """The mean of all weights, with the first learner's buffers; each learner's own are there again afterwards."""
        if self.world_size == 1:
            yield
            return
        self._wait()
        own, buffers = flattened(module), [buffer.clone() for buffer in module.buffers()]
        mean = own.clone()
        dist.all_reduce(mean)
        assign(module, mean / self.world_size)
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
        yield
        assign(module, own)
        for buffer, before in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def diagnostics(self, module: nn.Module) -> dict[str, float]:
        """The spread σ_w² of the weights, and the seconds that this epoch waited for neighbours, a learner's mean."""
        if self.world_size == 1:
            return {}
        own = flattened(module)
        mean = own.clone()
        dist.all_reduce(mean)
        away = float((own - mean / self.world_size).square().sum())
        sums = self.total({"weight_spread": away, "mixing_s": self.exchange.waited_s})
        self.exchange.waited_s = 0.0
        return {name: value / self.world_size for name, value in sums.items()}

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Writes this learner's weights, buffers and ``state``; returns once all learners have."""
        if self.world_size == 1:
            return
        own = {
            "learners": self.world_size,
            "weights": flattened(module),
            "buffers": [buffer.clone() for buffer in module.buffers()],
            **state,
        }
        path = self._path(folder, stem)
        write_state(path, own, path.with_suffix(DIGEST))
        self.agree(False)

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Takes the weights that :meth:`save_own` wrote and returns the state with them.

        Where any learner has none that can be read, as with another number of learners, all keep the mean.
        """
        self.exchange.step = updates
        if self.world_size == 1:
            return None
        state, reason = self._read(self._path(folder, stem))
        if reasons := [why for why in self.gather(reason) if why]:
            if self.is_main:
                log(f"no complete learner state ({reasons[0]}); every learner resumes from the mean weights")
            return None
        assign(module, state["weights"])
        for buffer, own in zip(module.buffers(), state["buffers"], strict=True):
            buffer.copy_(own)
        self.exchange.restored = True
        return state

    def _read(self, path: Path) -> tuple[dict[str, Any], str]:
        """A learner's file, or why it cannot be used."""
        if not path.is_file():
            return {}, f"there is no {path.name}"
        try:
            if path.with_suffix(DIGEST).read_text(encoding="utf-8").strip() != digest(path):
                return {}, f"{path.name} is not what was written"
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damage shows as errors of any kind
            return {}, f"{path.name} cannot be read: {next(iter(str(error).splitlines()), type(error).__name__)}"
        return state, "" if state["learners"] == self.world_size else f"there were {state['learners']} learners"

    def _path(self, folder: Path, stem: str) -> Path:
        return folder / f"{stem}{LEARNER}{self.rank}.pt"

    def _row(self) -> torch.Tensor:
        """(n,) this learner's row of T in this step."""
        return mixing_matrix(self.mixing, self.world_size, self.seed, self.exchange.step)[self.rank]

    def _send(self, own: torch.Tensor) -> None:
        exchange, row = self.exchange, self._row()
        exchange.own = own
        exchange.neighbours = [k for k in range(self.world_size) if k != self.rank and row[k] > 0]
        exchange.received = own.new_empty(len(exchange.neighbours), len(own))
        operations = [dist.P2POp(dist.isend, own, k, self.group) for k in exchange.neighbours]
        operations += [
            dist.P2POp(dist.irecv, place, k, self.group)
            for place, k in zip(exchange.received, exchange.neighbours, strict=True)
        ]
        exchange.pending = dist.batch_isend_irecv(operations) if operations else []

    def _wait(self) -> None:
        started = time.monotonic()
        for work in self.exchange.pending:
            work.wait()
        self.exchange.pending = []
        self.exchange.waited_s += time.monotonic() - started


def flattened(module: nn.Module) -> torch.Tensor:
    """(d,) a copy of all parameters, one after the other."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


@torch.no_grad()
def assign(module: nn.Module, weights: torch.Tensor) -> None:
    """Sets the parameters to what :func:`flattened` gave of others."""
    first = 0
    for p in module.parameters():
        p.copy_(weights[first : first + p.numel()].view_as(p))
        first += p.numel()
