"""ADPSGD: learners that wait for nobody (Cui et al. 2021, arXiv 2110.11199).

Each learner takes its next share of the work, computes the gradient at its weights as they were then, and adds the
optimizer's step to its weights as they are now; in the background it averages them with one other learner after each
step (:mod:`asrkit.distributed.gossip`). Its staleness is how many updates the others made meanwhile. What is evaluated,
saved and shipped is the mean of all.

Several processes can be one learner, a super-learner: inside it gradients are averaged, and its first process averages
weights with the other super-learners.
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
        in_step: the processes of this super-learner; one alone usually.
        number: of this super-learner.
        supers: how many begin together.
        store: shared by all processes.
        membership: of the super-learners; None in all processes of one but the first.
        mixing: a kind of :func:`asrkit.distributed.mixing.partner`.
        seed: of the random kinds.
        host: of this machine for the others.
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
        """How many processes begin together."""
        return self.supers * self.in_step.world_size

    @property
    def device(self) -> torch.device:
        """Where this one trains."""
        return self.in_step.device

    @property
    def is_main(self) -> bool:
        """Whether this is the learner that writes files and shows progress."""
        return self.rank == 0

    @property
    def place(self) -> tuple[int, int]:
        """Number of this process among those of the last meeting, and how many they were."""
        members, size = self.running.members, self.in_step.world_size
        return members.index(self.number) * size + self.in_step.rank, len(members) * size

    # Where all meet

    def agree(self, flag: bool) -> bool:
        """Whether ``flag`` holds for any learner; all must ask at the same point."""
        return any(self.gather(flag))

    def gather(self, value: Value) -> list[Value]:
        """``value`` of every learner that is present, in the order of ranks; alone, before it has joined the others."""
        own = self.in_step.gather(value)
        if not self.running.inside and self._joins_later():
            return own
        said = self._first(lambda membership: membership.meet(own))
        return [value for of_one in said.values() for value in of_one]

    def total(self, counts: Mapping[str, float]) -> dict[str, float]:
        """``counts`` of all learners, those of one name added."""
        return added(self.gather(dict(counts)))

    def begin(self, module: nn.Module) -> int | None:
        """All begin together, or this one joins the others, with the weights of one of them."""
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
        """Leaves the others in order."""
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
            if position(self.store) != where:  # they have met meanwhile
                raise LeftBehind
            return where

        where = self._first(wait)
        self.running.epoch, self.running.round, self.running.joined = where["epoch"], where["round"], True
        log(f"learner {self.number} joins the others in epoch {where['epoch']}, with the weights of one of them")
        return where["epoch"]

    # Rounds of an epoch

    def round(self, epoch: int, num_steps: int, done: int) -> Round:
        """The shares that are not done, this learner's own first; see :mod:`asrkit.distributed.work_queue`."""
        running = self.running

        def open_round(membership: Membership) -> tuple[list[int], int, str]:
            if running.joined:
                running.joined = False
                if order := self._queue.open(epoch, running.round, num_steps * self.supers):
                    return order, self._queue.number_done() // self.supers, Pause.NONE.name
            self._gossip.pause()
            key = self._pause_key(membership)
            own = self.store.get(key).decode() if self.store.check([key]) else Pause.NONE.name
            said = membership.meet((own, self._queue.number_done_in(epoch)))
            asked = max((asked for asked, _ in said.values()), key=[p.name for p in Pause].index)
            done = said[0][1]  # as learner 0 counts, for one that was lost may still finish a share
            running.round = running.round + 1 if epoch == running.epoch else 0
            running.epoch = epoch
            order = self._queue.open(epoch, running.round, num_steps * self.supers)
            return order, done // self.supers, asked

        order, done, asked = self._first(open_round)
        return Round(order, done, Pause[asked])

    def proceed(self, module: nn.Module) -> None:
        """Back to the steps, from the weights as they are now."""
        if self.membership:
            self.membership.tell_position({"epoch": self.running.epoch, "round": self.running.round})
            self._gossip.resume()
        self._take(module)

    def claim(self, share: int) -> Claim:
        """Whether a share is this learner's to do; the others may have come before."""
        return self._first(lambda membership: self._queue.claim(share))

    @property
    def shares(self) -> int:
        """Of a step: one for each super-learner."""
        return self.supers

    def slot(self, share: int) -> int:
        """That of the share's learner, and in it of this process."""
        return share % self.supers * self.in_step.world_size + self.in_step.rank

    def pause(self, stop: bool, step: int, every: int) -> Pause:
        """Whether to leave the steps, because any learner was asked to stop or it is time to save."""
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
        """The module itself, or the one that averages gradients inside a super-learner."""
        return self.in_step.wrap(module, all_used)

    def without_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """For all backward passes of an update but the last."""
        return self.in_step.without_sync(wrapped)

    def watch(self, module: nn.Module, again: Callable[[], float], lr: float) -> None:
        """Keeps the last gradient of the epoch: there is no step of all whose gradients could be compared before all
        have come to its end."""
        if self.watched:
            self.running.last = LastGradient(again, lr)

    def before_step(self, module: nn.Module) -> None:
        """Nothing: the weights are averaged in the background."""

    def after_step(self, module: nn.Module) -> None:
        """Adds what the optimizer did to the weights as they are now, and takes those for the next gradient."""
        started, running, counts = time.monotonic(), self.running, self.running.counts
        if self.membership:
            weights = self._gossip.step(flattened(module).cpu() - running.weights)
            self._set(module, weights)
            now = int(self.store.add("updates", 1))
            stale, running.seen = now - running.seen - 1, now
            counts.updates, counts.staleness = counts.updates + 1, counts.staleness + stale
            counts.most_stale = max(counts.most_stale, stale)
            running.done = self._queue.finish()
        else:
            self._set(module, running.weights)
        counts.mixing_s += time.monotonic() - started

    def _take(self, module: nn.Module) -> None:
        """The weights as they are now, in the module."""
        if self.membership:
            self.running.seen = int(self.store.add("updates", 0))
            self._set(module, self._gossip.weights())
        else:
            self._set(module, self.running.weights)

    def _set(self, module: nn.Module, weights: torch.Tensor) -> None:
        """``weights`` of the super-learner's first process, in the module of each."""
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
        """The mean of all weights, with the first learner's buffers; each learner's own are there again afterwards."""
        buffers = [buffer.clone() for buffer in module.buffers()]
        found = self._mean(lambda: self._gossip.weights(), buffers)
        if self.membership:
            self.running.spread = float((self._gossip.weights() - found[0]).square().sum())
        assign(module, found[0])
        for buffer, of_first in zip(module.buffers(), found[1:], strict=True):
            buffer.copy_(of_first)
        yield
        self._take(module)
        for buffer, before in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def _mean(self, of: Callable[[], torch.Tensor], buffers: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """The mean of what those present have, and the first one's buffers."""
        return self._first(lambda membership: mean_of_present(membership, self._gossip, of, buffers))

    def _noise(self, module: nn.Module) -> dict[str, float]:
        """α_e / α, Δ and its split, of the last gradient of each learner that took one in the epoch."""
        last, self.running.last = self.running.last, None
        own = at_mean = torch.zeros_like(self.running.weights)
        if last:
            own = gradient_again(module, last.again).cpu()
        with self.consensus(module):
            if last:
                at_mean = gradient_again(module, last.again).cpu()
        given = torch.cat([own, at_mean, torch.ones(1)])
        if not (last and torch.isfinite(given).all()):
            last, given = None, torch.zeros_like(given)
        mean = self._mean(lambda: given)[0]
        mean /= max(float(mean[-1]), 1e-9)  # over those that took one
        mean_gradient, mean_at_mean = mean[:-1].chunk(2)
        away = float((at_mean - mean_at_mean).square().sum())
        of_all = self.gather((away, last.lr) if last and self.membership else None)
        told = [of_one for of_one in of_all if of_one]
        if not told:
            return {}
        scatter, lr = (sum(values) for values in zip(*told, strict=True))
        return noise_in_training(mean_gradient, mean_at_mean, scatter, len(told), lr / len(told))

    def diagnostics(self, module: nn.Module) -> dict[str, Any]:
        """The spread σ_w² of the weights, the staleness of updates, the seconds that steps took for the weights' sake,
        and what each learner did; where it is watched, α_e / α, Δ and its split too."""
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
        """Takes what :meth:`state_dict` gave; of another number of learners, the first ``step`` steps of the epoch."""
        joins_later = self._joins_later()  # which all processes of a super-learner ask
        if self.is_main and not joins_later and step:
            done = state["done"] if state.get("learners") == self.supers else range(step * self.supers)
            self._queue.restore(epoch, done)

    def save_own(self, folder: Path, stem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Writes this learner's weights, buffers and ``state``; returns once all learners have."""
        if self.membership:
            write_own(own_path(folder, stem, self.number), self.supers, self._gossip.weights(), module, state)
        self.agree(False)

    def load_own(self, folder: Path, stem: str, module: nn.Module, updates: int) -> dict[str, Any] | None:
        """Takes the weights that :meth:`save_own` wrote and returns the state with them.

        Where any learner has none that can be read, as with another number of learners, all keep the mean.
        """
        return load_own_of_all(self, own_path(folder, stem, self.number), self.supers, module)

    @property
    def _gossip(self) -> Gossip:
        assert self.running.gossip
        return self.running.gossip

    def _first(self, ask: Callable[[Membership], Value]) -> Value:
        """What the first process of this super-learner finds out, in all of them, or what it raises."""
        found: list[Any] = [None, None, None]
        if self.membership:
            try:
                found = [ask(self.membership), None, self.membership.members]
            except (UserError, LeftBehind) as error:
                if self.in_step.world_size == 1:
                    raise
                found[1] = error
        if self.in_step.world_size > 1:
            dist.broadcast_object_list(found, 0)
        if found[1] is not None:
            raise found[1]
        self.running.members = found[2]
        value: Value = found[0]
        return value
