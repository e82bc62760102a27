"""All parameters of a module as one vector, which learners exchange."""

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
    """Sets the parameters from a vector in the order of :func:`flattened`."""
    begin = 0
    for p in module.parameters():
        p.copy_(weights[begin : begin + p.numel()].view_as(p))
        begin += p.numel()
