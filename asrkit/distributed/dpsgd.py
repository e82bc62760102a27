"""DPSGD: learners that average with their neighbours while they compute (Zhang et al. 2021, arXiv 2112.01433).

Each learner has its own weights and optimizer state. Its step is w_j ← Σ_k T_jk w_k − α ∇L_j(w_j): while it computes
the gradient at its own weights, those of its neighbours arrive, and their average replaces its own just before the
optimizer's step. With the average of all learners it is the delay-by-one form of Cui et al. 2021 (D1D, arXiv
2110.11199), whose allreduce overlaps with the gradient. The mean weights of all are evaluated, saved and shipped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from asrkit.distributed.diagnostics import gradient_again, noise_in_training
from asrkit.distributed.flat import assign, flattened, flattened_gradient
from asrkit.distributed.learners import AllReduce, added
from asrkit.distributed.mixing import AVERAGE, mixing_matrix
from asrkit.distributed.own_state import load_own_of_all, own_path, write_own
from asrkit.distributed.updates import mixed


@dataclass
class Exchange:
    """The weights in transit."""

    step: int = 0
    """Updates done, which determine the mixing matrix."""
    own: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """(d,) this learner's weights at the start of the update."""
    neighbours: list[int] = field(default_factory=list)
    received: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """(neighbours, d), or (1, d) the sum of all."""
    pending: list[dist.Work] = field(default_factory=list)
    mixing_s: float = 0.0
    """Seconds that steps spent on mixing, without waiting."""
    waited_s: float = 0.0
    watched: list[dict[str, float]] = field(default_factory=list)
    """:func:`noise_in_training` of this epoch's watched updates."""
    restored: bool = False
    """Whether the weights are this learner's own from a checkpoint, not the mean."""


@dataclass(frozen=True)
class Dpsgd(AllReduce):
    """Synchronous learners, each with its own weights."""

    mixing: str = "ring"
    """A kind of :func:`asrkit.distributed.mixing.mixing_matrix`."""
    seed: int = 0
    watch_every: int = 0
    """Updates between two measurements of α_e and Δ; 0 for none."""
    exchange: Exchange = field(default_factory=Exchange)
    group: dist.ProcessGroup | None = None
    """Transfers the weights; in the default group, nccl would make the loop's collectives wait for them."""

    def begin(self, module: nn.Module) -> int | None:
        """All start together, with the first one's weights unless each has its own from a checkpoint."""
        if self.world_size > 1:
            own = flattened(module)
            if not self.exchange.restored:
                dist.broadcast(own, 0)
                assign(module, own)
            self._send(own)
        return None

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module itself: gradients stay local."""
        return module

    def watch(self, module: nn.Module, again: Callable[[], float], lr: float) -> None:
        """Every ``watch_every`` updates, compares the learners' mean gradient with that of the same batches at their
        mean weights. α_e and Δ are those of a plain SGD step before clipping, whatever the optimizer."""
        exchange = self.exchange
        if self.world_size == 1 or not self.watch_every or exchange.step % self.watch_every:
            return
        unclipped = [p.grad for p in module.parameters()]
        own = flattened_gradient(module)
        with self.consensus(module):
            gradients = torch.stack([own, gradient_again(module, again)])
        for p, gradient in zip(module.parameters(), unclipped, strict=True):
            p.grad = gradient
        if self.agree(not bool(torch.isfinite(gradients).all())):
            return
        at_mean = gradients[1].clone()
        dist.all_reduce(gradients)
        gradients /= self.world_size
        scatter = self.total({"scatter": float((at_mean - gradients[1]).square().sum())})["scatter"]
        exchange.watched.append(noise_in_training(gradients[0], gradients[1], scatter, self.world_size, lr))

    def before_step(self, module: nn.Module) -> None:
        """Replaces the weights by the average of the neighbourhood."""
        if self.world_size == 1:
            return
        self._wait()
        started, exchange = time.monotonic(), self.exchange
        if self.mixing == AVERAGE:
            assign(module, exchange.received[0] / self.world_size)
        else:
            row = self._row()
            coefficients = torch.stack([row[self.rank], *(row[k] for k in exchange.neighbours)])
            weights = torch.cat([exchange.own[None], exchange.received])
            assign(module, mixed(weights, coefficients[None])[0])
        exchange.mixing_s += time.monotonic() - started

    def after_step(self, module: nn.Module) -> None:
        """Sends the new weights to the next step's neighbours."""
        if self.world_size == 1:
            return
        started = time.monotonic()
        self.exchange.step += 1
        self._send(flattened(module))
        self.exchange.mixing_s += time.monotonic() - started

    @contextlib.contextmanager
    def consensus(self, module: nn.Module) -> Iterator[None]:
        """The mean of all weights, with the first learner's buffers; each learner gets its own back on exit."""
        if self.world_size == 1:
            yield
            return
        self._wait()
        own, own_buffers = flattened(module), [buffer.clone() for buffer in module.buffers()]
        mean = own.clone()
        dist.all_reduce(mean)
        assign(module, mean / self.world_size)
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
        yield
        assign(module, own)
        for buffer, own_buffer in zip(module.buffers(), own_buffers, strict=True):
            buffer.copy_(own_buffer)

    def diagnostics(self, module: nn.Module) -> dict[str, float]:
        """The spread σ_w² of the weights, and the mean seconds that a learner's steps spent in this epoch on mixing and
        on waiting for neighbours. If updates were watched, also the means of α_e / α, Δ and its split."""
        if self.world_size == 1:
            return {}
        own = flattened(module)
        mean = own.clone()
        dist.all_reduce(mean)
        spread = float((own - mean / self.world_size).square().sum())
        exchange = self.exchange
        sums = self.total({"weight_spread": spread, "mixing_s": exchange.mixing_s, "waited_s": exchange.waited_s})
        exchange.mixing_s = exchange.waited_s = 0.0
        watched, exchange.watched = exchange.watched, []
        means = {name: value / len(watched) for name, value in added(watched).items()}
        return {name: value / self.world_size for name, value in sums.items()} | means

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Writes this learner's weights, buffers and ``state``; returns once all learners have."""
        if self.world_size > 1:
            write_own(own_path(folder, stem, self.rank), self.world_size, flattened(module), module, state)
            self.agree(False)

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Loads the weights that :meth:`save_own` wrote and returns the state with them.

        If any learner's cannot be read, as with another number of learners, all keep the mean.
        """
        self.exchange.step = updates
        if self.world_size == 1:
            return None
        state = load_own_of_all(self, own_path(folder, stem, self.rank), self.world_size, module)
        self.exchange.restored = state is not None
        return state

    def _row(self) -> torch.Tensor:
        """(n,) this learner's row of T in this step."""
        return mixing_matrix(self.mixing, self.world_size, self.seed, self.exchange.step)[self.rank]

    def _send(self, own: torch.Tensor) -> None:
        exchange, row = self.exchange, self._row()
        exchange.own = own
        if self.mixing == AVERAGE:
            exchange.received = own.clone()[None]
            exchange.pending = [dist.all_reduce(exchange.received, group=self.group, async_op=True)]
            return
        exchange.neighbours = [k for k in range(self.world_size) if k != self.rank and row[k] > 0]
        exchange.received = own.new_empty(len(exchange.neighbours), len(own))
        operations = [dist.P2POp(dist.isend, own, k, self.group) for k in exchange.neighbours]
        operations += [
            dist.P2POp(dist.irecv, buffer, k, self.group)
            for buffer, k in zip(exchange.received, exchange.neighbours, strict=True)
        ]
        exchange.pending = dist.batch_isend_irecv(operations) if operations else []

    def _wait(self) -> None:
        started = time.monotonic()
        for work in self.exchange.pending:
            work.wait()
        self.exchange.pending = []
        self.exchange.waited_s += time.monotonic() - started
