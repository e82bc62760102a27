"""Many learners in one process, against one learner at a time."""

from __future__ import annotations

import torch
from torch import nn

from asrkit.distributed.flat import assign, flattened
from asrkit.distributed.mixing import ring
from asrkit.distributed.simulator import simulate_dpsgd
from asrkit.distributed.virtual import VirtualLearners


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 5)).double()


def test_each_learner_has_its_own_weights_and_batch() -> None:
    module, learners = network(), VirtualLearners(network(), nn.functional.cross_entropy)
    x, y = torch.randn(4, 6, 2, 8, dtype=torch.float64), torch.randint(5, (4, 6))
    weights = learners.start(4) + 0.1 * torch.randn(4, flattened(module).numel(), dtype=torch.float64)
    gradients, losses = learners.gradients(weights, x, y)
    for n in range(4):
        assign(module, weights[n])
        module.zero_grad()
        loss = nn.functional.cross_entropy(module(x[n]), y[n])
        loss.backward()
        expected = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
        assert torch.allclose(gradients[n], expected, atol=1e-12) and torch.allclose(losses[n], loss, atol=1e-12)
        alone, value = learners.full_gradient(weights[n], x[n], y[n])
        assert torch.allclose(alone, expected, atol=1e-12) and abs(value - loss.item()) < 1e-12


def test_the_simulator_trains_them() -> None:
    learners = VirtualLearners(network(), nn.functional.cross_entropy)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 32, 2, 8, dtype=torch.float64, generator=generator)
    y = (x[:, :, 0, 0] > 0).long()
    losses: list[float] = []

    def gradient(weights: torch.Tensor, step: int) -> torch.Tensor:
        gradients, values = learners.gradients(weights, x, y)
        losses.append(values.mean().item())
        return gradients

    simulate_dpsgd(learners.start(4), gradient, lambda step: ring(4), 0.3, 60)
    assert losses[-1] < 0.2 * losses[0]
