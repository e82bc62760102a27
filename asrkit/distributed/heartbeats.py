"""Which learners are alive: each increments a counter in a shared store, and watches those of the others."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from asrkit.errors import UserError

BEATS_PER_LIMIT = 10
"""A learner that misses this many in a row is lost."""


class Heartbeats:
    """This learner's heartbeats, and when the others' were last heard.

    Args:
        store: shared by all.
        rank: of this learner.
        limit_s: a learner that has not been heard for this long is lost.
        on_lost: called with the rank of a learner that is lost.
    """

    def __init__(self, store: Any, rank: int, limit_s: float, on_lost: Callable[[int], None] | None = None) -> None:
        # A connection of its own: a blocking request would delay all others on the same one.
        self.store, self.rank, self.limit_s, self.on_lost = store.clone(), rank, limit_s, on_lost
        self.interval_s = limit_s / BEATS_PER_LIMIT
        self.counts: dict[int, int] = {}
        self.heard_at: dict[int, float] = {}
        self.error = ""
        self._ended = threading.Event()
        self._beat()
        store.set(f"left/{rank}", "")
        append(store, "registered", rank)
        self._listen()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def alive(self) -> list[int]:
        """Ranks heard within the limit, this one included, in ascending order."""
        now = time.monotonic()
        heard = [rank for rank, at in list(self.heard_at.items()) if now - at < self.limit_s]
        return sorted({*heard, self.rank})

    def lost(self) -> list[int]:
        """Ranks that were heard before, but not within the limit."""
        return sorted(set(self.heard_at) - set(self.alive()))

    def stop(self) -> None:
        """Ends the heartbeats, so that the others consider this learner lost, as after an error."""
        self._ended.set()

    def close(self) -> None:
        """Announces that this learner leaves, so that it does not count as lost."""
        self._ended.set()
        self._thread.join()
        if not self.error:
            self.store.set(f"left/{self.rank}", "in order")

    def _run(self) -> None:
        reported: set[int] = set()
        before = time.monotonic()
        while not self._ended.wait(self.interval_s):
            now = time.monotonic()
            if now - before > self.limit_s / 2:  # this process itself was suspended, and heard nobody
                self.heard_at = dict.fromkeys(self.heard_at, now)
            before = now
            try:
                self._beat()
                self._listen()
            except RuntimeError as error:
                self.error = f"the store that the learners share cannot be reached: {str(error).splitlines()[0]}"
                return
            for rank in set(self.lost()) - reported:
                reported.add(rank)
                if self.on_lost:
                    self.on_lost(rank)

    def _beat(self) -> None:
        self.store.add(f"beat/{self.rank}", 1)

    def _listen(self) -> None:
        ranks = [rank for rank in taking_part(self.store) if rank != self.rank]
        counts = self.store.multi_get([f"beat/{rank}" for rank in ranks]) if ranks else []
        now = time.monotonic()
        for rank, count in zip(ranks, map(int, counts), strict=True):
            if self.counts.get(rank) != count:
                self.counts[rank], self.heard_at[rank] = count, now
        for rank in set(self.heard_at) - set(ranks):
            del self.heard_at[rank]

    def require(self) -> None:
        """Raises:
        UserError: the store is gone.
        """
        if self.error:
            raise UserError(f"{self.error}; run the same command to resume")


def taking_part(store: dist.Store) -> list[int]:
    """Ranks of all learners that have started and not announced that they leave, in ascending order."""
    started = sorted(members(store, "registered"))
    left = store.multi_get([f"left/{rank}" for rank in started]) if started else []
    return [rank for rank, has_left in zip(started, left, strict=True) if not has_left]


def append(store: Any, name: str, number: int) -> None:
    """Appends a rank, or another number, to a key of the store."""
    store.append(name, f"{number} ")


def members(store: dist.Store, name: str) -> set[int]:
    """The numbers appended to a key of the store."""
    return set(map(int, store.get(name).split())) if store.check([name]) else set()


def end_without(rank: int, limit_s: float) -> None:
    """Ends this process with one line, since the main thread may wait for the lost learner forever."""
    print(
        f"asrkit: learner {rank} has not been heard of for {limit_s:g} s and the others cannot continue without it; "
        "run the same command to resume",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
