"""Many learners of a small model in one process: their weights are the rows of one matrix, and so are their gradients.

Exact, and fast enough to study convergence with up to 64 learners; see :mod:`asrkit.distributed.simulator`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from asrkit.distributed.flat import flattened


class VirtualLearners:
    """Gradients of n learners, each at its own weights and on its own mini-batch.

    Args:
        module: without state that its forward pass changes, such as batch normalization's.
        loss: of the module's output and the targets of one mini-batch: a mean over its examples.
    """

    def __init__(self, module: nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.module = module
        self.names = [name for name, _ in module.named_parameters()]
        self.shapes = [p.shape for p in module.parameters()]
        self.sizes = [p.numel() for p in module.parameters()]

        def batch_loss(weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return loss(functional_call(module, self.parameters(weights), (x,)), y)

        self._gradients = vmap(grad_and_value(batch_loss))
        self._gradient = grad_and_value(batch_loss)

    def start(self, n: int) -> torch.Tensor:
        """(n, d) the module's weights for each learner."""
        return flattened(self.module).expand(n, -1).clone()

    def parameters(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """The module's parameters by name, as views of weights (d,)."""
        parts = weights.split(self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def gradients(self, weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient (n, d) and loss (n,) of each learner.

        Args:
            weights: (n, d).
            x: (n, B, ...).
            y: (n, B, ...).
        """
        gradients, losses = self._gradients(weights, x, y)
        return gradients, losses

    def full_gradient(self, weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, float]:
        """(d,) gradient and the loss of one set of weights (d,) on inputs (B, ...)."""
        gradient, value = self._gradient(weights, x, y)
        return gradient, float(value)
