"""Learners that join and leave, and the meetings of all.

Nothing here happens within a step. Learners meet between the steps of an epoch and its measurement, and when training
is saved: each contributes a value and receives those of all. Learner 0 waits for all that are present and closes the
meeting. A lost learner is not waited for; one that returns is present from the next meeting on.
"""

from __future__ import annotations

import io
import json
import pickle
import time
import zlib
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from asrkit.distributed.heartbeats import Heartbeats, append, members, taking_part
from asrkit.errors import UserError

POLL_S = 0.01
START_LIMIT_S = 600.0
"""Time for all learners to start."""
FIRST_IS_LOST = (
    "learner 0, which writes the files, is lost or has finished, and the others cannot continue; run the same command "
    "to resume"
)


class LeftBehind(Exception):
    """The others considered this learner lost and continued; it has to rejoin."""


@dataclass(frozen=True)
class Peer:
    """The address of another learner."""

    rank: int
    incarnation: int
    """How often a learner of this rank has started."""
    host: str
    port: int


class Membership:
    """This learner among the others.

    Args:
        store: shared by all.
        rank: of this learner.
        expected: how many start together; those of a higher rank join later.
        limit_s: a learner that has not been heard for this long is lost.
    """

    def __init__(self, store: dist.Store, rank: int, expected: int, limit_s: float) -> None:
        self.store, self.rank, self.expected = store, rank, expected
        self.incarnation = int(store.add(f"incarnation/{rank}", 1))
        self.joins_later = self.incarnation > 1 or rank >= expected
        self.beats = Heartbeats(store, rank, limit_s)
        self._first_missing = 0, 0.0
        """Incarnation of learner 0, and since when it has been missing."""
        self.met = 0
        """Meetings so far, including those before this learner joined."""
        self.members = [rank]
        """Ranks at the last meeting."""
        if not self.joins_later:
            self.admit()

    def admit(self) -> None:
        """From now on the others wait for this learner when they meet."""
        self.store.set(f"admitted/{self.rank}", str(self.incarnation))

    def announce(self, host: str, port: int) -> None:
        """Publishes the address of this learner."""
        value = json.dumps([self.incarnation, host, port])
        self.store.set(f"address/{self.rank}", value)
        append(self.store, "addresses", self.rank)

    def peers(self) -> dict[int, Peer]:
        """The others that are alive and have an address, by rank."""
        ranks = sorted(members(self.store, "addresses").intersection(self._not_lost()) - {self.rank})
        addresses = self.store.multi_get([f"address/{rank}" for rank in ranks]) if ranks else []
        peers = {rank: Peer(rank, *json.loads(address)) for rank, address in zip(ranks, addresses, strict=True)}
        return {rank: peer for rank, peer in peers.items() if not self._gone(peer.rank, peer.incarnation)}

    def meet(self, value: Any) -> dict[int, Any]:
        """The value of every learner at the meeting, by rank.

        Raises:
            UserError: another learner failed, learner 0 is lost, or some never came to the first meeting.
            LeftBehind: the others met without this one.
        """
        number, self.met = self.met, self.met + 1
        self.store.set(f"said/{number}/{self.rank}", zlib.compress(pickle.dumps(value)).hex())
        decided, started = f"decided/{number}", time.monotonic()
        while not self.store.check([decided]):
            self.require()
            if self.rank == 0:
                present = self._present(number)
                if self._all_contributed(number, present):
                    self.store.set(decided, json.dumps(present))
                    self.store.set("meetings", str(number + 1))
                    self._forget(number - 2)
                    break
            elif self._first_is_lost() and not self.store.check([decided]):  # it may close a meeting and leave at once
                raise UserError(FIRST_IS_LOST)
            if number == 0 and time.monotonic() - started > START_LIMIT_S:
                absent = sorted(set(range(self.expected)) - members(self.store, "registered"))
                raise UserError(f"learners {absent} did not start within {START_LIMIT_S:g} s; start them all")
            time.sleep(POLL_S)
        self.members = json.loads(self.store.get(decided))
        keys = [f"said/{number}/{rank}" for rank in self.members]
        if self.rank not in self.members or not self.store.check(keys):  # deleted two meetings later
            raise LeftBehind
        values = self.store.multi_get(keys)
        return {rank: _plain(value) for rank, value in zip(self.members, values, strict=True)}

    def tell_position(self, where: dict[str, int]) -> None:
        """Publishes the position until the next meeting, for learners that join; see :func:`position`."""
        if self.rank == 0:
            self.store.set("position", json.dumps({**where, "met": self.met}))

    def fail(self, message: str) -> None:
        """Tells the others to end, and why."""
        self.store.compare_set("failed", "", message)

    def require(self) -> None:
        """Raises:
        UserError: another learner failed, or the store is gone.
        """
        self.beats.require()
        if self.store.check(["failed"]):
            raise UserError(self.store.get("failed").decode())

    def require_not_left_behind(self) -> None:
        """Raises:
        LeftBehind: the others have met without this one.
        """
        if self.store.check([f"decided/{self.met}"]):
            raise LeftBehind

    def require_first(self) -> None:
        """Raises:
        UserError: learner 0 is lost, or has left, and no launcher starts it again.
        """
        if self._first_is_lost():
            raise UserError(FIRST_IS_LOST)

    def _first_is_lost(self) -> bool:
        if self.rank == 0:
            return False
        incarnation = int(self.store.add("incarnation/0", 0))
        left = 0 in members(self.store, "registered") and 0 not in taking_part(self.store)
        missing = 0 in self.beats.lost() and not self._gone(0, incarnation)
        now = time.monotonic()
        if not missing or self._first_missing[0] != incarnation:
            self._first_missing = incarnation, now
        # One that has just restarted is heard with the next heartbeat.
        return left or now - self._first_missing[1] > 3 * self.beats.interval_s

    def close(self) -> None:
        """Leaves the others cleanly."""
        self.beats.close()

    def _present(self, number: int) -> list[int]:
        """Ranks that a meeting waits for."""
        alive = self._not_lost()
        if number == 0:
            alive |= set(range(self.expected)) - set(self.beats.lost())
        present = []
        for rank in sorted(alive):
            incarnation = int(self.store.add(f"incarnation/{rank}", 0))
            admitted = self.store.check([f"admitted/{rank}"]) and int(self.store.get(f"admitted/{rank}"))
            starting = number == 0 and rank < self.expected and incarnation <= 1
            if (starting or admitted == incarnation) and not self._gone(rank, incarnation):
                present.append(rank)
        return present

    def _not_lost(self) -> set[int]:
        """Ranks that have started and neither left nor been lost; the newest may not have been heard yet."""
        return set(taking_part(self.store)) - set(self.beats.lost())

    def _gone(self, rank: int, incarnation: int) -> bool:
        """Whether a launcher saw this incarnation end."""
        return self.store.check([f"gone/{rank}"]) and int(self.store.get(f"gone/{rank}")) >= max(1, incarnation)

    def _all_contributed(self, number: int, present: list[int]) -> bool:
        return self.store.check([f"said/{number}/{rank}" for rank in present])

    def _forget(self, number: int) -> None:
        if number < 0:
            return
        for rank in members(self.store, "registered"):
            self.store.delete_key(f"said/{number}/{rank}")


class _Plain(pickle.Unpickler):
    """Reads plain values only: anyone who reaches the store could write to it, and a pickle could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a learner sent a value with {module}.{name}")


def _plain(value: bytes) -> Any:
    return _Plain(io.BytesIO(zlib.decompress(bytes.fromhex(value.decode())))).load()


def position(store: dist.Store) -> dict[str, int] | None:
    """What :meth:`Membership.tell_position` published; None during a meeting, and before training begins."""
    if not store.check(["position"]):
        return None
    where: dict[str, int] = json.loads(store.get("position"))
    return where if where["met"] == int(store.get("meetings")) else None


def tell_gone(store: dist.Store, rank: int) -> None:
    """Called by a launcher: a learner's process has ended, and nobody must wait for it."""
    store.set(f"gone/{rank}", str(store.add(f"incarnation/{rank}", 0)))
