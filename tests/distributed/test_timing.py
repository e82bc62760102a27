"""The clock of many learners against what can be computed by hand."""

from __future__ import annotations

import pytest

from asrkit.distributed.timing import STRATEGIES, Cluster, Fault, simulate_timing


@pytest.mark.parametrize("slow", [2.0, 10.0, 100.0])
@pytest.mark.parametrize("learners", [8, 16, 32])
def test_a_slow_learner(learners: int, slow: float) -> None:
    """In step all wait for it; without waiting L learners lose as little as L / (L − 1 + 1/s)."""
    even = Cluster(learners, compute_s=1.0, jitter=0.0)
    uneven = Cluster(learners, compute_s=1.0, jitter=0.0, slow={3: slow})
    for strategy in STRATEGIES:
        updates = 400 * learners
        ratio = simulate_timing(strategy, uneven, updates).seconds / simulate_timing(strategy, even, updates).seconds
        expected = slow
        if strategy in ("ring", "random_ring"):
            expected = learners / (learners - 1 + 1 / slow)
        assert ratio == pytest.approx(expected, rel=0.01)


def test_what_is_sent_is_hidden_or_not() -> None:
    cluster = Cluster(16, compute_s=1.0, jitter=0.0, message_s=0.4, latency_s=0.001)
    assert cluster.allreduce_s == pytest.approx(2 * 15 * (0.4 / 16 + 0.001))
    seconds = {strategy: simulate_timing(strategy, cluster, 1600).seconds for strategy in STRATEGIES}
    assert seconds["ssgd"] == pytest.approx(100 * (1 + cluster.allreduce_s))
    assert seconds["d1d"] == seconds["ring"] == seconds["dpsgd_ring"] == pytest.approx(100.0)
    slow_link = Cluster(16, compute_s=1.0, jitter=0.0, message_s=3.0)
    assert simulate_timing("d1d", slow_link, 160).seconds == pytest.approx(10 * slow_link.allreduce_s)
    assert simulate_timing("dpsgd_ring", slow_link, 160).seconds == pytest.approx(30.0)


def test_staleness() -> None:
    """Of equal learners L − 1 on average; of one that is s times slower about s (L − 1)."""
    timing = simulate_timing("random_ring", Cluster(8, compute_s=1.0, jitter=0.1), 8000)
    assert timing.staleness == pytest.approx(7.0, abs=0.05)
    timing = simulate_timing("ring", Cluster(8, compute_s=1.0, jitter=0.0, slow={0: 10.0}), 8000)
    assert timing.most_stale == pytest.approx(70, abs=1)
    assert timing.by_learner[0] == pytest.approx(timing.by_learner[1] / 10, rel=0.02)
    assert simulate_timing("d1d", Cluster(8, compute_s=1.0), 80).staleness == 1.0
    assert simulate_timing("ssgd", Cluster(8, compute_s=1.0), 80).staleness == 0.0


def test_faults() -> None:
    """Those in step wait until a learner is back; the others lose what it would have done."""
    fault = Fault(learner=2, begin_s=10.0, seconds=50.0)
    cluster = Cluster(8, compute_s=1.0, jitter=0.0, faults=(fault,))
    for strategy in ("ssgd", "d1d", "dpsgd_ring"):
        assert simulate_timing(strategy, cluster, 800).seconds == pytest.approx(150.0, abs=1.0)
    assert simulate_timing("ring", cluster, 800).seconds == pytest.approx((800 + 50) / 8, abs=2.0)


def test_a_thousand_learners() -> None:
    timing = simulate_timing("ring", Cluster(1024, compute_s=1.0, jitter=0.1), 10240)
    assert timing.updates == 10240 and timing.throughput == pytest.approx(1024, rel=0.1)
    with pytest.raises(ValueError, match="no strategy"):
        simulate_timing("paxos", Cluster(2, 1.0), 2)
