"""One learner of :mod:`tests.distributed.test_learners`, in a process of its own."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from asrkit.config_training import TrainConfig
from asrkit.distributed.flat import flattened
from asrkit.distributed.join import join_learners

LR = 0.1


class Points(nn.Module):
    """Two parameters, so that they are put in a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 2))


def target(rank: int, step: int) -> torch.Tensor:
    """What a learner's mini-batch pulls the weights to."""
    return torch.randn(7, generator=torch.Generator().manual_seed(100 * step + rank))


def add_gradient(module: nn.Module, rank: int, step: int, scale: float = 1.0) -> float:
    """Of ½‖w − target‖², times a scale, which is returned."""
    w = torch.cat([p.reshape(-1) for p in module.parameters()])
    ((w - target(rank, step)).square().sum() / 2 * scale).backward()
    return scale


def main(mixing: str, steps: int, out: Path) -> None:
    """Trains on ½‖w − target‖² and leaves the weights of the last step and their mean."""
    with join_learners(TrainConfig(parallel="dpsgd", mixing=mixing, seed=3, device="cpu", watch_every=2)) as learners:
        module = Points()
        if learners.rank:  # all start from the first one's
            nn.init.zeros_(module.a)
        learners.begin(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        for step in range(steps):
            wrapped = learners.wrap(module, True)
            optimizer.zero_grad()
            add_gradient(wrapped, learners.rank, step)
            learners.watch(module, partial(add_gradient, wrapped, learners.rank, step, 8.0), LR)
            learners.before_step(module)
            optimizer.step()
            learners.after_step(module)
        own = flattened(module)
        with learners.consensus(module):
            mean = flattened(module)
        assert torch.equal(flattened(module), own)
        torch.save({"own": own, "mean": mean, "told": learners.diagnostics(module)}, out / f"{learners.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
