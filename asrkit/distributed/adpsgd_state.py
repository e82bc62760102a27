"""What changes while asynchronous learners train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from asrkit.distributed.gossip import Gossip


@dataclass
class Counts:
    """Of an epoch."""

    updates: int = 0
    staleness: int = 0
    """Sum over the updates."""
    most_stale: int = 0
    mixing_s: float = 0.0
    """That steps took for the weights' sake."""


@dataclass(frozen=True)
class LastGradient:
    """Of this learner, to be taken once more where all meet."""

    again: Callable[[], float]
    """Adds it, at the weights that the module has then, times the scale it returns."""
    lr: float


@dataclass
class Running:
    """What changes while learners train."""

    gossip: Gossip | None = None
    weights: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """(d,) where this learner takes its gradient."""
    seen: int = 0
    """Updates of all learners when it took them."""
    done: int = 0
    """Shares of the epoch that all had done after its last step."""
    epoch: int = 0
    round: int = 0
    joined: bool = False
    """Just now, in the midst of a round."""
    inside: bool = False
    """Whether this learner is one of those that meet."""
    members: list[int] = field(default_factory=list)
    """Super-learners at the last meeting."""
    counts: Counts = field(default_factory=Counts)
    last: LastGradient | None = None
    """Of the epoch, where its noise is measured."""
    spread: float = 0.0
    """‖w − w_a‖² of this learner at the last consensus."""
