"""What decentralized learners tell of the loss around them (Zhang et al. 2021, arXiv 2112.01433, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from asrkit.distributed.mixing import ring_eigenvalues


@dataclass(frozen=True)
class StepDiagnostics:
    """One step of the mean weight, split into descent and noise."""

    effective_lr: float
    """α_e = α (g_a · g) / ‖g‖², the step along the full gradient g."""
    noise: torch.Tensor
    """η = −α g_a + α_e g, orthogonal to g."""
    noise_strength: float
    """Δ = ‖η‖²."""


def step_diagnostics(lr: float, mean_gradient: torch.Tensor, full_gradient: torch.Tensor) -> StepDiagnostics:
    """Of the learners' mean gradient g_a, each at its own weights, and the full gradient g at the mean weight."""
    effective = lr * float(mean_gradient @ full_gradient / full_gradient.square().sum())
    noise = -lr * mean_gradient + effective * full_gradient
    return StepDiagnostics(effective, noise, float(noise.square().sum()))


def weight_spread(weights: torch.Tensor) -> float:
    """σ_w² = (1/n) Σ_j ‖w_j − w_a‖² of learners' weights (n, d)."""
    return float((weights - weights.mean(0)).square().sum(1).mean())


def stationary_ring_spread(n: int, lr: float, curvature: float, noise: float) -> float:
    """σ_w² that learners on a ring settle at, on a quadratic of this curvature with gradient noise (standard deviation)
    in one dimension: (1/n) Σ_{k≥2} (α s)² / (1 − (λ_k − α h)²).

    Raises:
        ValueError: a mode has |λ_k − α h| ≥ 1 and grows without bound.
    """
    factors = ring_eigenvalues(n)[1:] - lr * curvature
    if (factors.abs() >= 1).any():
        raise ValueError(f"at step times curvature {lr * curvature:g} the disagreement on a ring of {n} grows")
    return float(((lr * noise) ** 2 / (1 - factors**2)).sum() / n)


def smoothing_factor(frequency: float, spread: float) -> float:
    """By which the gradient of cos(k w) shrinks when weights spread normally with deviation s: exp(−k² s² / 2)."""
    return math.exp(-((frequency * spread) ** 2) / 2)


def diverged(loss: float, classes: int, tolerance: float = 0.02) -> bool:
    """Whether a classifier's loss is that of a uniform guess, or not a number: a run that is lost."""
    return not math.isfinite(loss) or abs(loss - math.log(classes)) < tolerance
