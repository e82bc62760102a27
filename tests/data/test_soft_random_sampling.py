"""Soft random sampling: the laws of Cui et al. 2023 (arXiv 2311.12727)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from asrkit.data.batching import BatchBudget, plan_epoch
from asrkit.data.soft_random_sampling import (
    draw_size,
    epochs_to_see_all,
    expected_coverage,
    expected_distinct,
    soft_random_sample,
)

N = 50_000
COVERAGE = {
    0.05: (0.0488, 0.2212, 0.3935, 0.6321, 0.9179, 0.9933),
    0.10: (0.0952, 0.3935, 0.6321, 0.8647, 0.9933, 1.0000),
    0.20: (0.1813, 0.6321, 0.8647, 0.9817, 1.0000, 1.0000),
    0.30: (0.2592, 0.7769, 0.9502, 0.9975, 1.0000, 1.0000),
}
EPOCHS = (1, 5, 10, 20, 50, 100)


def test_an_epoch_has_duplicates() -> None:
    """N = 50000, r = 0.1: 4758.2 of 5000 draws are different, with a deviation of 14.5."""
    mean, variance = expected_distinct(N, 5000)
    assert mean == pytest.approx(4758.2, abs=0.05)
    assert math.sqrt(variance) == pytest.approx(14.5, abs=0.1)
    counts = torch.tensor([float(len(soft_random_sample(N, 0.1, 1, epoch).unique())) for epoch in range(300)])
    assert abs(counts.mean().item() - mean) < 4 * math.sqrt(variance / 300)
    assert counts.var().item() == pytest.approx(variance, rel=0.35)


@pytest.mark.parametrize("rate", COVERAGE)
def test_coverage_and_occupancy(rate: float) -> None:
    seen = torch.zeros(N, dtype=torch.int64)
    for epoch in range(1, 201):
        seen += torch.bincount(soft_random_sample(N, rate, 3, epoch), minlength=N)
        if epoch in EPOCHS:
            expected = COVERAGE[rate][EPOCHS.index(epoch)]
            assert expected_coverage(N, rate, epoch) == pytest.approx(expected, abs=6e-5)
            assert (seen > 0).double().mean().item() == pytest.approx(expected, abs=0.006)
    mean = 200 * rate
    assert seen.double().mean().item() == pytest.approx(mean)
    assert seen.double().var().item() == pytest.approx(mean, rel=0.03)
    highest = int(mean + 4 * math.sqrt(mean))
    lowest = max(0, int(mean - 4 * math.sqrt(mean)))
    observed = torch.bincount(seen.clamp(lowest, highest), minlength=highest + 1)[lowest:].double().numpy()
    probabilities = stats.poisson.pmf(range(lowest, highest + 1), mean)
    probabilities[0], probabilities[-1] = stats.poisson.cdf(lowest, mean), stats.poisson.sf(highest - 1, mean)
    assert stats.chisquare(observed, N * probabilities / probabilities.sum()).pvalue > 0.001


@pytest.mark.parametrize(("rate", "epochs"), [(0.05, 228), (0.1, 114), (0.2, 57), (0.3, 38), (1.0, 11.4)])
def test_coupon_collector(rate: float, epochs: float) -> None:
    assert epochs_to_see_all(N, rate) == pytest.approx(epochs, rel=0.005)


def test_seeing_all_of_a_small_set_takes_as_long_as_expected() -> None:
    taken = []
    for seed in range(300):
        seen, epoch = torch.zeros(60, dtype=torch.bool), 0
        while not seen.all():
            epoch += 1
            seen[soft_random_sample(60, 0.2, seed, epoch)] = True
        taken.append(epoch)
    assert sum(taken) / 300 == pytest.approx(epochs_to_see_all(60, 0.2) + 0.5, rel=0.05)  # whole epochs


def test_draws_are_a_function_of_seed_and_epoch() -> None:
    draws = {(s, e): soft_random_sample(1000, 0.3, s, e) for s in (1, 2) for e in (1, 2)}
    for (seed, epoch), drawn in draws.items():
        assert torch.equal(drawn, soft_random_sample(1000, 0.3, seed, epoch))
    values = [tuple(drawn.tolist()) for drawn in draws.values()]
    assert len(set(values)) == 4


def test_processes_share_one_draw() -> None:
    drawn = soft_random_sample(1001, 0.5, 1, 7).numpy()
    seconds, tokens = np.linspace(1, 9, 1001), np.ones(1001, np.int32)
    budget = BatchBudget(60.0, 10**9, 3, vocab_size=10, frame_shift_s=0.04)
    plan = plan_epoch(seconds, tokens, budget, seed=1, epoch=7, drawn=drawn)
    shares = [np.concatenate([update[rank] for update in plan[:]]) for rank in range(3)]
    assert sorted(np.concatenate(shares)[:, 0].tolist()) == sorted(drawn.tolist())
    assert len({tuple(row) for share in shares for row in share.tolist()}) == len(drawn)  # no presentation comes twice
    assert max(map(len, shares)) - min(map(len, shares)) <= len(plan)


def test_all_at_once_still_has_duplicates() -> None:
    drawn = soft_random_sample(N, 1.0, 1, 1)
    assert len(drawn) == N
    assert len(drawn.unique()) / N == pytest.approx(1 - math.exp(-1), abs=0.006)
    assert len(soft_random_sample(5, 0.01, 1, 1)) == 1
    for rate in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match="selection rate"):
            draw_size(10, rate)


def test_gradients_are_unbiased() -> None:
    """A draw's mean gradient is that of all data, with variance σ₁² / (r N) at every rate."""
    generator = torch.Generator().manual_seed(5)
    n = 500
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    y = (torch.rand(n, generator=generator) < 0.5).double()
    w = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64)
    per_item = (torch.sigmoid(x @ w) - y)[:, None] * x  # of the logistic loss
    full, variance = per_item.mean(0), per_item.var(0, unbiased=False).sum().item()
    for rate in (0.05, 0.2, 0.6):
        draws = torch.stack([per_item[soft_random_sample(n, rate, 9, epoch)].mean(0) for epoch in range(2000)])
        standard_error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - full).abs() < 4 * standard_error).all()
        assert draws.var(0).sum().item() * draw_size(n, rate) == pytest.approx(variance, rel=0.1)


def test_rate_of_convergence() -> None:
    """With steps c / √T the mean squared gradient falls with T at a slope of -0.4 or steeper."""
    generator = torch.Generator().manual_seed(6)
    n, batch, rate = 400, 8, 0.2
    x = torch.randn(n, 5, dtype=torch.float64, generator=generator)
    y = (torch.sigmoid(x @ torch.ones(5, dtype=torch.float64)) > torch.rand(n, generator=generator)).double()
    found = []
    for steps in (100, 1000, 10000):
        w, total = torch.zeros(5, dtype=torch.float64), 0.0
        drawn = torch.empty(0, dtype=torch.int64)
        epoch = 0
        for _ in range(steps):
            if len(drawn) < batch:
                epoch += 1
                drawn = soft_random_sample(n, rate, 1, epoch)
            chosen, drawn = drawn[:batch], drawn[batch:]
            full = (torch.sigmoid(x @ w) - y) @ x / n
            total += full.square().sum().item()
            w = w - 3.0 / math.sqrt(steps) * (torch.sigmoid(x[chosen] @ w) - y[chosen]) @ x[chosen] / batch
        found.append(total / steps)
    slope = (math.log(found[-1]) - math.log(found[0])) / (math.log(10000) - math.log(100))
    assert slope <= -0.4
