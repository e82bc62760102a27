"""What the one-layer transformers of both studies share: attention, and SGD on several runs at once.

Shape letters: S runs, B prompts, N columns of a context, D width of a column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch

Tensors = dict[str, torch.Tensor]


def attention(
    parameters: Tensors, columns: torch.Tensor, query: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax_i((W_K p_i)ᵀ W_Q p_query) over the columns; the query's own column has none.

    Args:
        parameters: ``query`` and ``key``, (S, D, D) each.
        columns: (S, B, N, D).
        query: (S, B, D).
        valid: (S, B, N) which columns exist; all of them if None.

    Returns:
        (S, B, N).
    """
    projected = torch.einsum("sed,sbd->sbe", parameters["query"], query)
    projected = torch.einsum("sed,sbe->sbd", parameters["key"], projected)  # W_Kᵀ W_Q p_query
    scores = torch.einsum("sbnd,sbd->sbn", columns, projected)
    return torch.softmax(scores if valid is None else scores.masked_fill(~valid, -math.inf), dim=-1)


def sgd(
    parameters: Tensors,
    losses: Callable[[Tensors], torch.Tensor],
    steps: int,
    lr: float,
    watch: Callable[[int, Tensors], None] | None = None,
    fixed: Collection[str] = (),
) -> Tensors:
    """Plain gradient descent; each run has its own loss and its own gradient.

    Args:
        parameters: where to start, each (S, ...).
        losses: the loss of each run (S,), on a fresh batch.
        steps: updates.
        lr: η.
        watch: called before each update and after the last one.
        fixed: parameters that are not trained.
    """
    trained = {name: value.clone().requires_grad_(name not in fixed) for name, value in parameters.items()}
    free = [value for value in trained.values() if value.requires_grad]
    for step in range(steps):
        if watch:
            watch(step, trained)
        # The sum over runs leaves each run's gradient unchanged.
        gradients = torch.autograd.grad(losses(trained).sum(), free)
        with torch.no_grad():
            for value, gradient in zip(free, gradients, strict=True):
                value -= lr * gradient
    if watch:
        watch(steps, trained)
    return {name: value.detach() for name, value in trained.items()}
