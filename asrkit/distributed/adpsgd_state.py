"""The state of an asynchronous learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from asrkit.distributed.gossip import Gossip


@dataclass
class Counts:
    """Of one epoch."""

    updates: int = 0
    staleness: int = 0
    """Sum over the updates."""
    most_stale: int = 0
    mixing_s: float = 0.0
    """Seconds that steps spent on mixing."""


@dataclass(frozen=True)
class LastGradient:
    """A learner's last gradient, to be recomputed at the next meeting."""

    again: Callable[[], float]
    """Adds the gradient at the module's current weights, times the scale it returns."""
    lr: float


@dataclass
class Running:
    """What changes while a learner trains."""

    gossip: Gossip | None = None
    weights: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """(d,) at which this learner computes its gradient."""
    seen: int = 0
    """Updates of all learners when it took these weights."""
    done: int = 0
    """Shares of the epoch that all learners had done after its last step."""
    epoch: int = 0
    round: int = 0
    joined: bool = False
    """Whether it has just joined, in the middle of a round."""
    inside: bool = False
    """Whether it takes part in meetings."""
    members: list[int] = field(default_factory=list)
    """Super-learners at the last meeting."""
    counts: Counts = field(default_factory=Counts)
    last: LastGradient | None = None
    """Of the epoch, if its noise is measured."""
    spread: float = 0.0
    """‖w − w_a‖² of this learner at the last consensus."""
