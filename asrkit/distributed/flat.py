"""All parameters of a module as one vector, which is what learners send each other."""

from __future__ import annotations

import torch
from torch import nn


def flattened(module: nn.Module) -> torch.Tensor:
    """(d,) a copy of all parameters, one after the other."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def flattened_gradient(module: nn.Module) -> torch.Tensor:
    """(d,) a copy of the gradients of all parameters, 0 where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in module.parameters()])


@torch.no_grad()
def assign(module: nn.Module, weights: torch.Tensor) -> None:
    """Sets the parameters to what :func:`flattened` gave of others."""
    first = 0
    for p in module.parameters():
        p.copy_(weights[first : first + p.numel()].view_as(p))
        first += p.numel()
