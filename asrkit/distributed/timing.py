"""How long many learners take: an event-driven clock for synchronous and decentralized SGD (Cui et al. 2021,
arXiv 2110.11199).

Nothing is trained: the waiting of a strategy is simulated, for up to thousands of learners. Times are in seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

STRATEGIES = ("ssgd", "dpsgd_ring", "d1d", "ring", "random_ring")
"""Allreduce; synchronous neighbours on a ring; delay-by-one; and asynchronous fixed and random neighbours."""


@dataclass(frozen=True)
class Fault:
    """A learner is away for a while."""

    learner: int
    begin_s: float
    seconds: float


@dataclass(frozen=True)
class Cluster:
    """Learners and their network."""

    learners: int
    compute_s: float
    """Time of a gradient and its step."""
    jitter: float = 0.1
    """Standard deviation of its logarithm."""
    slow: dict[int, float] = field(default_factory=dict)
    """Factors of slow learners by number."""
    message_s: float = 0.0
    """Time to send all weights from one learner to another."""
    latency_s: float = 0.0
    step_s: float = 0.0
    """Time that mixing adds to a decentralized step: its copies of the weights."""
    faults: Sequence[Fault] = ()
    seed: int = 1

    @property
    def allreduce_s(self) -> float:
        """Time of a ring allreduce: every learner sends 2 (n − 1)/n of the weights in 2 (n − 1) messages."""
        n = self.learners
        return 2 * (n - 1) * (self.message_s / n + self.latency_s)


@dataclass(frozen=True)
class Timing:
    """The result of a run."""

    seconds: float
    updates: int
    """Of all learners."""
    staleness: float
    """Mean number of others' updates between reading weights and applying their gradient; of steps if synchronous."""
    most_stale: int
    by_learner: list[int]
    """Updates of each learner."""

    @property
    def throughput(self) -> float:
        """Updates of all learners per second."""
        return self.updates / self.seconds if self.seconds else math.inf


def simulate_timing(strategy: str, cluster: Cluster, updates: int) -> Timing:
    """The time until all learners together have made ``updates`` updates.

    Args:
        strategy: one of :data:`STRATEGIES`.
        cluster: the learners.
        updates: how many; synchronous strategies round up to a multiple of the learners.

    Raises:
        ValueError: no such strategy.
    """
    if strategy in ("ring", "random_ring"):
        return _without_waiting(cluster, updates)
    if strategy == "dpsgd_ring":
        return _on_a_ring(cluster, updates)
    if strategy in ("ssgd", "d1d"):
        return _all_together(cluster, updates, hidden=strategy == "d1d")
    raise ValueError(f"no strategy {strategy}; there are {', '.join(STRATEGIES)}")


def _all_together(cluster: Cluster, updates: int, hidden: bool) -> Timing:
    """All wait for the slowest and then for the allreduce, or for the longer of the two if it is ``hidden``."""
    generator, n, now = np.random.default_rng(cluster.seed), cluster.learners, 0.0
    rounds = math.ceil(updates / n)
    for _ in range(rounds):
        begin = max([now, *(fault.begin_s + fault.seconds for fault in _away(cluster, now))])
        slowest = float(_compute(cluster, generator).max()) + (cluster.step_s if hidden else 0.0)
        now = begin + (max(slowest, cluster.allreduce_s) if hidden else slowest + cluster.allreduce_s)
    return Timing(now, rounds * n, float(hidden), int(hidden), [rounds] * n)


def _on_a_ring(cluster: Cluster, updates: int) -> Timing:
    """Each waits for the weights that its two neighbours had when they began the same step."""
    generator, n = np.random.default_rng(cluster.seed), cluster.learners
    rounds, begun = math.ceil(updates / n), np.zeros(n)
    message_s = cluster.message_s + cluster.latency_s
    for _ in range(rounds):
        for fault in cluster.faults:
            if fault.begin_s <= begun[fault.learner] < fault.begin_s + fault.seconds:
                begun[fault.learner] = fault.begin_s + fault.seconds
        computed = begun + _compute(cluster, generator)
        received = np.maximum(np.roll(begun, 1), np.roll(begun, -1)) + message_s if n > 1 else begun
        begun = np.maximum(computed, received) + cluster.step_s
    return Timing(float(begun.max()), rounds * n, 0.0, 0, [rounds] * n)


def _without_waiting(cluster: Cluster, updates: int) -> Timing:
    """Nobody waits; messages are sent in the background."""
    generator, n = np.random.default_rng(cluster.seed), cluster.learners
    ends = _compute(cluster, generator) + cluster.step_s
    queue = [(float(ends[learner]), learner) for learner in range(n)]
    heapq.heapify(queue)
    seen, done, stale, most = [0] * n, [0] * n, 0, 0
    total, now = 0, 0.0
    faults = sorted(cluster.faults, key=lambda fault: fault.begin_s)
    while total < updates:
        now, learner = heapq.heappop(queue)
        away = [fault for fault in faults if fault.learner == learner and fault.begin_s <= now]
        if away:  # its current gradient is lost
            faults.remove(away[0])
            begin = max(now, away[0].begin_s + away[0].seconds)
        else:
            behind = total - seen[learner]
            stale, most, total, begin = stale + behind, max(most, behind), total + 1, now
            done[learner] += 1
        seen[learner] = total
        seconds = cluster.compute_s * cluster.slow.get(learner, 1.0) * math.exp(cluster.jitter * generator.normal())
        heapq.heappush(queue, (begin + seconds + cluster.step_s, learner))
    return Timing(now, total, stale / max(1, total), most, done)


def _compute(cluster: Cluster, generator: np.random.Generator) -> np.ndarray:
    """(n,) seconds of a gradient of each learner."""
    factors = np.ones(cluster.learners)
    for learner, factor in cluster.slow.items():
        factors[learner] = factor
    return cluster.compute_s * factors * np.exp(cluster.jitter * generator.standard_normal(cluster.learners))


def _away(cluster: Cluster, now: float) -> list[Fault]:
    return [fault for fault in cluster.faults if fault.begin_s <= now < fault.begin_s + fault.seconds]
