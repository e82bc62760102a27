"""The update rules of several learners as pure functions, which real learners and the simulator call alike.

Learner j of n has the weights w_j, a row of W (n, d), and the gradient g_j of its mini-batch at these weights, a row of
G. A mixing matrix T (n, n) says whose weights it averages (:mod:`asrkit.distributed.mixing`).
"""

from __future__ import annotations

import torch


def mixed(weights: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """(m, d) weighted means of (k, d) weights, with coefficients (m, k): rows of T W."""
    return mixing.to(weights) @ weights


def dpsgd_step(weights: torch.Tensor, gradients: torch.Tensor, mixing: torch.Tensor, lr: float) -> torch.Tensor:
    """W' = T W − α G: the average of the neighbours minus the step at the learner's own weights, before mixing (Zhang
    et al. 2021, arXiv 2112.01433)."""
    return mixed(weights, mixing) - lr * gradients


def ssgd_step(weights: torch.Tensor, gradients: torch.Tensor, lr: float) -> torch.Tensor:
    """W' = W − α (1/n) Σ_j g_j: all learners have the same weights, and keep them."""
    return weights - lr * gradients.mean(dim=0)


def exchanged(asking: torch.Tensor, asked: torch.Tensor, share: float) -> torch.Tensor:
    """β (w_j − w_i): what the asking learner i adds to its weights, and the asked learner j subtracts from its own.

    Both move by the same amount, so the sum of all weights is preserved, whatever happens to the two in the meantime.
    With β = 1/2 both end at their mean; with β = 1/3 on both links of a ring at once, each ends at a third of its own
    weights and of each neighbour's (Cui et al. 2021, arXiv 2110.11199).
    """
    return share * (asked - asking)
