"""What decentralized learners reveal about the loss landscape (Zhang et al. 2021, arXiv 2112.01433, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from asrkit.distributed.flat import flattened_gradient
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
    """From the learners' mean gradient g_a, each at its own weights, and the full gradient g at the mean weight."""
    effective = lr * float(mean_gradient @ full_gradient / full_gradient.square().sum())
    noise = -lr * mean_gradient + effective * full_gradient
    return StepDiagnostics(effective, noise, float(noise.square().sum()))


def gradient_again(module: nn.Module, again: Callable[[], float]) -> torch.Tensor:
    """(d,) the gradient that ``again`` adds times the scale it returns; the module's gradient is cleared."""
    module.zero_grad(set_to_none=True)
    scale = again()
    gradient = flattened_gradient(module) / scale
    module.zero_grad(set_to_none=True)
    return gradient


def noise_in_training(
    mean_gradient: torch.Tensor, at_mean: torch.Tensor, scatter: float, learners: int, lr: float
) -> dict[str, float]:
    """α_e / α, and Δ with its split Δ_S + Δ_2, if the full gradient g is not available.

    With ḡ, the mean of the learners' gradients at the mean weights, in place of g, the step's noise is Δ_2, the part
    caused by the spread of the weights. The distance of ḡ from g is estimated from the scatter of the gradients:
    Δ_S = α² Σ_j ‖g_j − ḡ‖² / (n (n − 1)), unbiased for independent mini-batches.

    Args:
        mean_gradient: (d,) g_a, mean of the learners' gradients, each at its own weights.
        at_mean: (d,) ḡ, that of the same mini-batches at the mean weights.
        scatter: Σ_j ‖g_j − ḡ‖² of the gradients at the mean weights.
        learners: n; with a single one, Δ_S is 0.
        lr: α.
    """
    step = step_diagnostics(1.0, mean_gradient, at_mean)
    of_batches = lr**2 * scatter / (learners * max(1, learners - 1))
    of_spread = lr**2 * step.noise_strength
    return {
        "effective_lr": step.effective_lr,
        "noise": of_batches + of_spread,
        "noise_of_batches": of_batches,
        "noise_of_spread": of_spread,
    }


def weight_spread(weights: torch.Tensor) -> float:
    """σ_w² = (1/n) Σ_j ‖w_j − w_a‖² of learners' weights (n, d)."""
    return float((weights - weights.mean(0)).square().sum(1).mean())


def stationary_ring_spread(n: int, lr: float, curvature: float, noise: float) -> float:
    """The stationary σ_w² of learners on a ring, for a one-dimensional quadratic with this curvature and gradient noise
    (standard deviation): (1/n) Σ_{k≥2} (α s)² / (1 − (λ_k − α h)²).

    Raises:
        ValueError: a mode has |λ_k − α h| ≥ 1 and grows without bound.
    """
    factors = ring_eigenvalues(n)[1:] - lr * curvature
    if (factors.abs() >= 1).any():
        raise ValueError(f"at step times curvature {lr * curvature:g} the disagreement on a ring of {n} grows")
    return float(((lr * noise) ** 2 / (1 - factors**2)).sum() / n)


def smoothing_factor(frequency: float, spread: float) -> float:
    """Factor of the gradient of cos(k w) if the weights are normally distributed with deviation s: exp(−k² s² / 2)."""
    return math.exp(-((frequency * spread) ** 2) / 2)


def diverged(loss: float, classes: int, tolerance: float = 0.02) -> bool:
    """Whether a classifier's loss is not finite, or that of a uniform guess."""
    return not math.isfinite(loss) or abs(loss - math.log(classes)) < tolerance
