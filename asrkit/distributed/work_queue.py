"""A queue from which learners take work, so that a fast one does more.

An epoch is a sequence of shares: every update of the plan has one for each learner. A learner does its own first and
then helps with those that others have not started, from the last one backwards. A lost learner's share is done by
another in a further round.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch.distributed as dist

from asrkit.distributed.heartbeats import append, members


class Claim(Enum):
    """The result of claiming a share."""

    MINE = "mine"
    TAKEN = "taken"
    NONE_LEFT = "none left"
    """No other share is left either."""


def in_order(remaining: Sequence[int], learner: int, learners: int) -> list[int]:
    """The remaining shares in the order in which a learner claims them: share k belongs to learner k mod n.

    Two learners that help others begin with different shares.
    """
    own = [share for share in remaining if share % learners == learner]
    others = [share for share in reversed(remaining) if share % learners != learner]
    return own + [share for i in range(learners) for share in others[(learner + i) % learners :: learners]]


class WorkQueue:
    """The shares of an epoch, in a store that all learners share.

    Args:
        store: shared by all.
        learner: number of this one.
        learners: how many have shares of their own.
    """

    def __init__(self, store: dist.Store, learner: int, learners: int) -> None:
        self.store, self.learner, self.learners = store, learner, learners
        self.epoch = self.round = 0
        self.offered = 0
        """Shares of this round."""
        self.held: int | None = None
        """The share that this learner is working on."""
        self._keys: list[str] = []

    def open(self, epoch: int, round: int, total: int) -> list[int]:
        """The shares of a round for this learner, in order; none once all ``total`` of the epoch are done."""
        if epoch != self.epoch:
            self._forget()
        self.epoch, self.round, self.held = epoch, round, None
        done = set(self.done())
        remaining = [share for share in range(total) if share not in done]
        # The first to open a round records its size, for those that join it later.
        self.offered = int(self.store.compare_set(self._key("offered", round), "", str(len(remaining))))
        return in_order(remaining, self.learner, self.learners)

    def claim(self, share: int) -> Claim:
        """Claims a share."""
        key = self._key("claim", self.round, share)
        mark = str(self.store.add("claims", 1))  # unique to this request
        if self.store.compare_set(key, "", mark).decode() == mark:
            self._keys.append(key)
            self.store.add(self._key("claimed", self.round), 1)
            self.held = share
            return Claim.MINE
        claimed = int(self.store.add(self._key("claimed", self.round), 0))
        return Claim.NONE_LEFT if claimed >= self.offered else Claim.TAKEN

    def finish(self) -> int:
        """Marks the held share as done; returns how many of the epoch are done."""
        if self.held is None:
            return self.number_done()
        append(self.store, self._key("done"), self.held)
        self.held = None
        return int(self.store.add(self._key("count"), 1))

    def number_done(self) -> int:
        """Shares of the epoch that are done."""
        return self.number_done_in(self.epoch)

    def number_done_in(self, epoch: int) -> int:
        """Shares of an epoch that are done."""
        return int(self.store.add(f"work/{epoch}/count", 0))

    def done(self) -> list[int]:
        """The shares of the epoch that are done, in ascending order."""
        return sorted(members(self.store, self._key("done")))

    def restore(self, epoch: int, done: Sequence[int]) -> None:
        """Sets the shares that are done, from a checkpoint; called by one learner before all start."""
        self.epoch = epoch
        self.store.set(self._key("done"), "".join(f"{share} " for share in done))
        self.store.add(self._key("count"), len(done))

    def _key(self, *words: object) -> str:
        return "/".join(map(str, ("work", self.epoch, *words)))

    def _forget(self) -> None:
        """Removes this learner's claims of the previous epoch."""
        for key in self._keys:
            self.store.delete_key(key)
        self._keys = []
