"""ADPSGD: learners that do not wait for each other (Cui et al. 2021, arXiv 2110.11199).

A learner claims a share of the work, computes the gradient at its current weights, and applies the optimizer's step to
the weights that it has by then; after each step it averages them with one other learner in the background
(:mod:`asrkit.distributed.gossip`). Its staleness is the number of updates that others made in the meantime. The mean
weights of all learners are evaluated, saved and shipped.

Several processes can form one learner, a super-learner: they average gradients, and the first of them averages weights
with the other super-learners.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from asrkit.console import log
from asrkit.distributed.adpsgd_state import Counts, LastGradient, Running
from asrkit.distributed.consensus import mean_of_present
from asrkit.distributed.diagnostics import gradient_again, noise_in_training
from asrkit.distributed.flat import assign, flattened
from asrkit.distributed.gossip import Gossip, Tally
from asrkit.distributed.learners import AllReduce, Pause, Round, added
from asrkit.distributed.membership import LeftBehind, Membership, position
from asrkit.distributed.own_state import load_own_of_all, own_path, write_own
from asrkit.distributed.work_queue import Claim, WorkQueue
from asrkit.errors import UserError

Value = TypeVar("Value")
JOIN_POLL_S = 0.1


@dataclass(frozen=True)
class Adpsgd:
    """Asynchronous learners.

    Args:
        in_step: the processes of this super-learner, usually one.
        number: of this super-learner.
        supers: how many super-learners start together.
        store: shared by all processes.
        membership: of the super-learners; None in all but the first process of each.
        mixing: a kind of :func:`asrkit.distributed.mixing.partner`.
        seed: for the random kinds.
        host: address at which the others reach this machine.
        watched: measure α_e and Δ at the end of each epoch.
    """

    in_step: AllReduce
    number: int
    supers: int
    store: dist.Store
    membership: Membership | None
    mixing: str
    seed: int
    host: str
    watched: bool = False
    running: Running = field(default_factory=Running)

    @functools.cached_property
    def _queue(self) -> WorkQueue:
        return WorkQueue(self.store, self.number, self.supers)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.number * self.in_step.world_size + self.in_step.rank

    @property
    def world_size(self) -> int:
        """Number of processes that start together."""
        return self.supers * self.in_step.world_size

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.in_step.device

    @property
    def is_main(self) -> bool:
        """Whether this is the learner that writes files and shows progress."""
        return self.rank == 0

    @property
    def place(self) -> tuple[int, int]:
        """Index of this process among those of the last meeting, and their number."""
        members, size = self.running.members, self.in_step.world_size
        return members.index(self.number) * size + self.in_step.rank, len(members) * size

    # Meetings

    def agree(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any learner; all must call this at the same point."""
        return any(self.gather(flag))

    def gather(self, value: Value) -> list[Value]:
        """``value`` of every learner present, by rank; only this one's before it has joined the others."""
        own = self.in_step.gather(value)
        if not self.running.inside and self._joins_later():
            return own
        values = self._first(lambda membership: membership.meet(own))
        return [value for part in values.values() for value in part]

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """``counts`` summed over all learners, by name."""
        return added(self.gather(dict(counts)))

    def begin(self, module: nn.Module) -> int | None:
        """Starts with the others, or joins them with the weights of one of them."""
        running = self.running
        own = flattened(module)
        if self.membership:
            secret = self.store.compare_set("secret", "", os.urandom(8).hex())
            running.gossip = Gossip(
                own.cpu(), self.membership, self.mixing, self.seed, bytes.fromhex(secret.decode()), self.host
            )
        running.weights = own.cpu()
        epoch = self._join() if self._joins_later() else None
        if running.gossip:
            running.gossip.open()
        running.inside = True
        self._take(module)
        return epoch

    def close(self) -> None:
        """Leaves the others cleanly."""
        if self.running.gossip:
            self.running.gossip.close()
        if self.membership:
            self.membership.close()

    def _joins_later(self) -> bool:
        return self.in_step.agree(bool(self.membership and self.membership.joins_later))

    def _join(self) -> int:
        def wait(membership: Membership) -> dict[str, int]:
            weights = None
            while (where := position(self.store)) is None or (weights := self._gossip.fetch()) is None:
                membership.require()
                membership.require_first()
                time.sleep(JOIN_POLL_S)
            self._gossip.put(weights)
            membership.met = where["met"]
            membership.admit()
            if position(self.store) != where:  # they have met in the meantime
                raise LeftBehind
            return where

        where = self._first(wait)
        self.running.epoch, self.running.round, self.running.joined = where["epoch"], where["round"], True
        log(f"learner {self.number} joins the others in epoch {where['epoch']}, with the weights of one of them")
        return where["epoch"]

    # Rounds of an epoch

    def round(self, epoch: int, num_steps: int, done: int) -> Round:
        """The remaining shares, this learner's own first; see :mod:`asrkit.distributed.work_queue`."""
        running = self.running

        def open_round(membership: Membership) -> tuple[list[int], int, str]:
            if running.joined:
                running.joined = False
                if order := self._queue.open(epoch, running.round, num_steps * self.supers):
                    return order, self._queue.number_done() // self.supers, Pause.NONE.name
            self._gossip.pause()
            key = self._pause_key(membership)
            own = self.store.get(key).decode() if self.store.check([key]) else Pause.NONE.name
            reports = membership.meet((own, self._queue.number_done_in(epoch)))
            pause = max((pause for pause, _ in reports.values()), key=[p.name for p in Pause].index)
            done = reports[0][1]  # by learner 0's count: a lost learner may still finish a share
            running.round = running.round + 1 if epoch == running.epoch else 0
            running.epoch = epoch
            order = self._queue.open(epoch, running.round, num_steps * self.supers)
            return order, done // self.supers, pause

        order, done, pause = self._first(open_round)
        return Round(order, done, Pause[pause])

    def proceed(self, module: nn.Module) -> None:
        """Resumes the steps from the current weights."""
        if self.membership:
            self.membership.tell_position({"epoch": self.running.epoch, "round": self.running.round})
            self._gossip.resume()
        self._take(module)

    def claim(self, share: int) -> Claim:
        """Claims a share, unless another learner has."""
        return self._first(lambda membership: self._queue.claim(share))

    @property
    def shares(self) -> int:
        """Shares of a step: one for each super-learner."""
        return self.supers

    def slot(self, share: int) -> int:
        """The slot of this process in the share of its super-learner."""
        return share % self.supers * self.in_step.world_size + self.in_step.rank

    def pause(self, stop: bool, step: int, every: int) -> Pause:
        """Whether to interrupt the steps, because a learner was asked to stop or a save is due."""
        stop = self.in_step.agree(stop)

        def look(membership: Membership) -> bool:
            membership.require()
            membership.require_not_left_behind()
            key = self._pause_key(membership)
            if stop:
                self.store.set(key, Pause.STOP.name)
            elif self.running.done % (every * self.supers) == 0:
                self.store.compare_set(key, "", Pause.SAVE.name)
            return self.store.check([key])

        return Pause.LEAVE if self._first(look) else Pause.NONE

    @staticmethod
    def _pause_key(membership: Membership) -> str:
        return f"pause/{membership.met}"

    # A step

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module itself, or one that averages gradients within a super-learner."""
        return self.in_step.wrap(module, all_used)

    def without_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Context of every backward pass of an update but the last."""
        return self.in_step.without_sync(wrapped)

    def watch(self, module: nn.Module, again: Callable[[], float], lr: float) -> None:
        """Keeps the epoch's last gradient: asynchronous gradients can only be compared at the end of the epoch."""
        if self.watched:
            self.running.last = LastGradient(again, lr)

    def before_step(self, module: nn.Module) -> None:
        """Nothing: the weights are averaged in the background."""

    def after_step(self, module: nn.Module) -> None:
        """Adds the optimizer's update to the current weights, at which the next gradient is computed."""
        started, running, counts = time.monotonic(), self.running, self.running.counts
        if self.membership:
            weights = self._gossip.step(flattened(module).cpu() - running.weights)
            self._set(module, weights)
            now = int(self.store.add("updates", 1))
            staleness, running.seen = now - running.seen - 1, now
            counts.updates, counts.staleness = counts.updates + 1, counts.staleness + staleness
            counts.most_stale = max(counts.most_stale, staleness)
            running.done = self._queue.finish()
        else:
            self._set(module, running.weights)
        counts.mixing_s += time.monotonic() - started

    def _take(self, module: nn.Module) -> None:
        """Copies the current weights into the module."""
        if self.membership:
            self.running.seen = int(self.store.add("updates", 0))
            self._set(module, self._gossip.weights())
        else:
            self._set(module, self.running.weights)

    def _set(self, module: nn.Module, weights: torch.Tensor) -> None:
        """Copies ``weights`` of the super-learner's first process into the module of every process."""
        if self.in_step.world_size > 1:
            if not self.membership:
                weights = torch.empty_like(flattened(module))
            weights = weights.to(self.device)
            dist.broadcast(weights, 0)
        assign(module, weights)
        self.running.weights = weights.cpu()

    # The mean of all

    @contextlib.contextmanager
    def consensus(self, module: nn.Module) -> Iterator[None]:
        """The mean of all weights, with the first learner's buffers; each learner gets its own back on exit."""
        own_buffers = [buffer.clone() for buffer in module.buffers()]
        mean, *buffers = self._mean(lambda: self._gossip.weights(), own_buffers)
        if self.membership:
            self.running.spread = float((self._gossip.weights() - mean).square().sum())
        assign(module, mean)
        for buffer, first in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(first)
        yield
        self._take(module)
        for buffer, own in zip(module.buffers(), own_buffers, strict=True):
            buffer.copy_(own)

    def _mean(self, vector: Callable[[], torch.Tensor], buffers: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """The mean vector of the learners present, and the first one's buffers."""
        return self._first(lambda membership: mean_of_present(membership, self._gossip, vector, buffers))

    def _noise(self, module: nn.Module) -> dict[str, float]:
        """α_e / α, Δ and its split, from the last gradients of the learners that computed one in the epoch."""
        last, self.running.last = self.running.last, None
        own = at_mean = torch.zeros_like(self.running.weights)
        if last:
            own = gradient_again(module, last.again).cpu()
        with self.consensus(module):
            if last:
                at_mean = gradient_again(module, last.again).cpu()
        gradients = torch.cat([own, at_mean, torch.ones(1)])
        if not (last and torch.isfinite(gradients).all()):
            last, gradients = None, torch.zeros_like(gradients)
        mean = self._mean(lambda: gradients)[0]
        mean /= max(float(mean[-1]), 1e-9)  # over the learners that computed one
        mean_gradient, mean_at_mean = mean[:-1].chunk(2)
        deviation = float((at_mean - mean_at_mean).square().sum())
        pairs = self.gather((deviation, last.lr) if last and self.membership else None)
        measured = [pair for pair in pairs if pair]
        if not measured:
            return {}
        scatter, lr = (sum(values) for values in zip(*measured, strict=True))
        return noise_in_training(mean_gradient, mean_at_mean, scatter, len(measured), lr / len(measured))

    def diagnostics(self, module: nn.Module) -> dict[str, Any]:
        """The spread σ_w² of the weights, the staleness of updates, the seconds that steps spent on mixing, and the
        updates of each learner; if watched, also α_e / α, Δ and its split."""
        noise = self._noise(module) if self.watched else {}
        counts, self.running.counts = self.running.counts, Counts()
        tally = self._gossip.take_tally() if self.membership else Tally()
        number = self.number if self.membership else None
        parts = self.gather((number, self.running.spread, vars(counts), vars(tally)))
        firsts = [part for part in parts if part[0] is not None]
        sums = added([{**part[2], **part[3]} for part in firsts])
        updates = max(1, sums["updates"])
        return {
            "weight_spread": sum(part[1] for part in firsts) / len(firsts),
            "mixing_s": sums["mixing_s"] / len(firsts),
            "staleness": sums["staleness"] / updates,
            "most_stale": max(part[2]["most_stale"] for part in firsts),
            "exchanges": sums["exchanges"],
            "failures": sums["failures"],
            "taken_back": sums["taken_back"],
            "learners": len(firsts),
            "updates": {str(part[0]): part[2]["updates"] for part in firsts},
        } | noise

    # On disk

    def state_dict(self) -> dict[str, Any]:
        """The shares of the epoch that are done."""
        return {"learners": self.supers, "done": self._queue.done() if self.membership else []}

    def load_state_dict(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Restores what :meth:`state_dict` returned; with another number of learners, ``step`` steps are done."""
        joins_later = self._joins_later()  # called by all processes of a super-learner
        if self.is_main and not joins_later and step:
            done = state["done"] if state.get("learners") == self.supers else range(step * self.supers)
            self._queue.restore(epoch, done)

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Writes this learner's weights, buffers and ``state``; returns once all learners have."""
        if self.membership:
            write_own(own_path(folder, stem, self.number), self.supers, self._gossip.weights(), module, state)
        self.agree(False)

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Loads the weights that :meth:`save_own` wrote and returns the state with them.

        If any learner's cannot be read, as with another number of learners, all keep the mean.
        """
        return load_own_of_all(self, own_path(folder, stem, self.number), self.supers, module)

    @property
    def _gossip(self) -> Gossip:
        assert self.running.gossip
        return self.running.gossip

    def _first(self, ask: Callable[[Membership], Value]) -> Value:
        """Calls ``ask`` in this super-learner's first process; returns its result, or raises its error, in all."""
        outcome: list[Any] = [None, None, None]
        if self.membership:
            try:
                outcome = [ask(self.membership), None, self.membership.members]
            except (UserError, LeftBehind) as error:
                if self.in_step.world_size == 1:
                    raise
                outcome[1] = error
        if self.in_step.world_size > 1:
            dist.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise outcome[1]
        self.running.members = outcome[2]
        value: Value = outcome[0]
        return value
