"""Decentralized and synchronous SGD of many learners in one process, their weights as one tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch

from asrkit.distributed.updates import dpsgd_step, ssgd_step

Gradient = Callable[[torch.Tensor, int], torch.Tensor]
"""Weights (n, d) and the step's number to each learner's gradient (n, d) at its own weights."""


def simulate_dpsgd(
    weights: torch.Tensor,
    gradient: Gradient,
    mixing: Callable[[int], torch.Tensor],
    lr: float,
    steps: int,
    watch: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """DPSGD: w_j(t+1) = Σ_k T_jk w_k(t) − α ∇L(w_j(t)) (Zhang et al. 2021, arXiv 2112.01433).

    The gradient is taken at the learner's own weights, before mixing, so both can be done at once.

    Args:
        weights: (n, d) at the start.
        gradient: of the mini-batches.
        mixing: T (n, n) by step.
        lr: α.
        steps: how many.
        watch: called with the step's number and the weights after it.

    Returns:
        (n, d) at the end.
    """
    for step in range(steps):
        weights = dpsgd_step(weights, gradient(weights, step), mixing(step), lr)
        if watch:
            watch(step, weights)
    return weights


def simulate_ssgd(
    weights: torch.Tensor,
    gradient: Gradient,
    lr: float,
    steps: int,
    watch: Callable[[int, torch.Tensor], None] | None = None,
    weight_noise: Callable[[int], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Synchronous SGD: all learners share w(t+1) = w(t) − α (1/n) Σ_j ∇L_j(w(t)).

    Args:
        weights: (n, d), all rows the same.
        gradient: of the mini-batches.
        lr: α.
        steps: how many.
        watch: as in :func:`simulate_dpsgd`.
        weight_noise: (n, d) by step, added to the weights at which gradients are computed: SSGD*, the control whose
            noise does not depend on the landscape.
    """
    for step in range(steps):
        noisy = weights if weight_noise is None else weights + weight_noise(step)
        weights = ssgd_step(weights, gradient(noisy, step), lr)
        if watch:
            watch(step, weights)
    return weights
