"""Other ways to train on part of the examples: baselines for soft random sampling."""

from __future__ import annotations

import torch

from asrkit.data.soft_random_sampling import draw_generator, draw_size


def repeated_subset(n: int, rate: float, seed: int, epoch: int) -> torch.Tensor:
    """(r·N,) distinct indices, redrawn each epoch (RS2, Okanovic et al. 2024, arXiv 2305.18424)."""
    return torch.randperm(n, generator=draw_generator(seed, epoch))[: draw_size(n, rate)]


def fixed_subset(n: int, rate: float, seed: int) -> torch.Tensor:
    """(r·N,) distinct indices, the same in every epoch."""
    return repeated_subset(n, rate, seed, epoch=0)


def highest_scores(scores: torch.Tensor, rate: float) -> torch.Tensor:
    """(r·N,) indices of the examples with the highest (N,) scores: a core set."""
    return torch.topk(scores, draw_size(len(scores), rate)).indices
