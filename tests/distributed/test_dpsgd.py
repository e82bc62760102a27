"""Decentralized SGD against its theory: the checks of Zhang et al. 2021 (arXiv 2112.01433)."""

from __future__ import annotations

import math

import pytest
import torch

from asrkit.distributed.diagnostics import (
    diverged,
    noise_in_training,
    smoothing_factor,
    stationary_ring_spread,
    step_diagnostics,
    weight_spread,
)
from asrkit.distributed.mixing import global_average, random_neighbour, ring
from asrkit.distributed.simulator import simulate_dpsgd, simulate_ssgd


def noisy_quadratic(hessian: torch.Tensor, noise: torch.Tensor):  # type: ignore[no-untyped-def]
    return lambda weights, step: weights @ hessian + noise[step]


def test_mean_weight_on_a_quadratic_moves_as_in_ssgd() -> None:
    """A common Hessian: where gradients are taken does not matter to the mean, whatever the mixing."""
    generator = torch.Generator().manual_seed(1)
    n, d, steps = 6, 4, 200
    root = torch.randn(d, d, dtype=torch.float64, generator=generator)
    gradient = noisy_quadratic(root @ root.T / d, torch.randn(steps, n, d, dtype=torch.float64, generator=generator))
    start = torch.randn(d, dtype=torch.float64, generator=generator).expand(n, d)
    for mixing in (lambda step: ring(n), lambda step: random_neighbour(n, generator)):
        alone = simulate_dpsgd(start, gradient, mixing, 0.05, steps)
        together = simulate_ssgd(start, gradient, 0.05, steps)
        assert (alone.mean(0) - together[0]).abs().max() < 1e-12


def test_spread_on_a_ring() -> None:
    """n = 8, α = 0.1, h = 1, s = 0.5 settles at 0.00295."""
    expected = stationary_ring_spread(8, 0.1, 1.0, 0.5)
    assert expected == pytest.approx(0.00295, abs=1e-5)
    generator = torch.Generator().manual_seed(2)
    worlds = 400  # columns are independent worlds of one dimension
    spreads: list[float] = []

    def gradient(weights: torch.Tensor, step: int) -> torch.Tensor:
        return weights + 0.5 * torch.randn(weights.shape, dtype=torch.float64, generator=generator)

    def watch(step: int, weights: torch.Tensor) -> None:
        if step >= 100:
            spreads.append(weight_spread(weights) / worlds)

    simulate_dpsgd(torch.zeros(8, worlds, dtype=torch.float64), gradient, lambda step: ring(8), 0.1, 300, watch)
    assert sum(spreads) / len(spreads) == pytest.approx(expected, rel=0.02)


def test_what_reduces_to_sgd() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(20, 5, 3, dtype=torch.float64, generator=generator)
    gradient = noisy_quadratic(torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), noise)
    one = noisy_quadratic(torch.eye(3, dtype=torch.float64), noise[:, :1])
    start = torch.ones(1, 3, dtype=torch.float64)
    alone = simulate_dpsgd(start, one, lambda step: torch.eye(1), 0.1, 20)
    assert torch.equal(alone, simulate_ssgd(start, one, 0.1, 20))
    # the mean taken after the gradient is SSGD, before it is not
    weights, average = torch.ones(5, 3, dtype=torch.float64), global_average(5)
    for step in range(20):
        weights = average @ (weights - 0.1 * gradient(weights, step))
    start = torch.ones(5, 3, dtype=torch.float64)
    assert torch.allclose(weights, simulate_ssgd(start, gradient, 0.1, 20), atol=1e-12)
    before = simulate_dpsgd(start, gradient, lambda step: average, 0.1, 20)
    assert (before - before.mean(0)).abs().max() > 1e-3


def test_diagnostics() -> None:
    generator = torch.Generator().manual_seed(4)
    full = torch.randn(10, dtype=torch.float64, generator=generator)
    exact = step_diagnostics(0.3, full, full)
    assert exact.effective_lr == pytest.approx(0.3, abs=1e-12)
    assert exact.noise_strength < 1e-12
    other = step_diagnostics(0.3, torch.randn(10, dtype=torch.float64, generator=generator), full)
    assert abs(float(other.noise @ full)) < 1e-12
    assert other.noise_strength > 0.01


@pytest.mark.parametrize(("frequency", "spread", "factor"), [(5.0, 0.3, 0.325), (20.0, 0.1, 0.135)])
def test_spread_smooths(frequency: float, spread: float, factor: float) -> None:
    assert smoothing_factor(frequency, spread) == pytest.approx(factor, abs=5e-4)
    generator = torch.Generator().manual_seed(5)
    around = 0.2 + spread * torch.randn(2_000_000, dtype=torch.float64, generator=generator)
    measured = (-frequency * torch.sin(frequency * around)).mean() / (-frequency * math.sin(frequency * 0.2))
    assert measured.item() == pytest.approx(factor, abs=0.003)
    peak = frequency**2 * smoothing_factor(frequency, spread)
    assert peak <= frequency / spread  # G/s, G being the Lipschitz constant


@pytest.mark.parametrize(("step_curvature", "radius"), [(0.6, 0.933), (0.75, 1.083)])
def test_a_ring_is_less_stable_than_the_mean(step_curvature: float, radius: float) -> None:
    """Of an even ring the disagreement grows from α h = 2/3 on, where SSGD is stable to 2."""
    generator = torch.Generator().manual_seed(6)
    start = torch.randn(8, 1, dtype=torch.float64, generator=generator)
    spreads: list[float] = []
    after = simulate_dpsgd(
        start,
        lambda weights, step: weights,
        lambda step: ring(8),
        step_curvature,
        120,
        lambda step, weights: spreads.append(weight_spread(weights)),
    )
    assert math.sqrt(spreads[-1] / spreads[-2]) == pytest.approx(radius, abs=1e-3)
    assert after.mean().abs() < start.mean().abs()
    if radius > 1:
        with pytest.raises(ValueError, match="grows"):
            stationary_ring_spread(8, step_curvature, 1.0, 0.1)


def test_diverged() -> None:
    assert diverged(math.log(32000), 32000)
    assert diverged(float("nan"), 10)
    assert not diverged(1.58, 32000)


def test_noise_depends_on_the_landscape() -> None:
    """A corrugated bowl: where it is rough learners spread a thousand times more than where it is smooth."""
    generator = torch.Generator().manual_seed(7)
    n, d = 16, 20
    start = (4.0 + 2.0 * torch.rand(1, d, dtype=torch.float64, generator=generator)).expand(n, d)
    spreads: list[tuple[float, float]] = []

    def gradient(weights: torch.Tensor, step: int) -> torch.Tensor:
        rough = torch.where(weights.abs() > 1.5, 8.0 * torch.sin(40.0 * weights), 0.0)
        return weights + rough + 0.02 * torch.randn(weights.shape, dtype=torch.float64, generator=generator)

    def watch(step: int, weights: torch.Tensor) -> None:
        spreads.append((float(weights.mean(0).abs().max()), weight_spread(weights)))

    end = simulate_dpsgd(start, gradient, lambda step: random_neighbour(n, generator), 0.05, 1500, watch)
    rough_spread = max(spread for _, spread in spreads[:50])
    assert rough_spread > 1e3 * spreads[-1][1]
    assert 0.5 * end.mean(0).square().sum() < 5e-5


def test_noise_of_a_step_without_a_rate() -> None:
    gradient = torch.tensor([3.0, 4.0])
    told = noise_in_training(gradient, gradient, 0.5, 2, 0.0)
    assert told == {"effective_lr": 1.0, "noise": 0.0, "noise_of_batches": 0.0, "noise_of_spread": 0.0}
    told = noise_in_training(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0]), 0.5, 2, 0.1)
    assert told["effective_lr"] == pytest.approx(1.5) and told["noise_of_spread"] == pytest.approx(0.01)
    assert told["noise_of_batches"] == pytest.approx(0.0025) and told["noise"] == pytest.approx(0.0125)
