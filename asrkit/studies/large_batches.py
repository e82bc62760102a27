"""Which learners cope with large batches: synchronous and decentralized SGD on images or on frames of speech (Zhang
et al. 2021, arXiv 2112.01433).

All learners are rows of one matrix (:mod:`asrkit.distributed.virtual`), so a run is exact and needs one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from asrkit.distributed.diagnostics import step_diagnostics, weight_spread
from asrkit.distributed.flat import flattened
from asrkit.distributed.mixing import AVERAGE, mixing_matrix
from asrkit.distributed.updates import dpsgd_step, ssgd_step
from asrkit.distributed.virtual import VirtualLearners
from asrkit.randomness import seeded_generator

STRATEGIES = {"SSGD": "", "SSGD with noise": "", "DPSGD": "random_pairs", "D1D": AVERAGE}
"""The kind of mixing of each strategy's learners; empty without mixing."""
WATCH_EVERY = 4
"""Steps between noise measurements."""


@dataclass(frozen=True)
class Examples:
    """Inputs and classes of a classifier."""

    x: torch.Tensor
    """(N, …) float32."""
    y: torch.Tensor
    """(N,) int64."""

    def part(self, begin: int, end: int) -> Examples:
        """Examples ``begin`` to ``end``."""
        return Examples(self.x[begin:end], self.y[begin:end])


@dataclass(frozen=True)
class Run:
    """One training."""

    strategy: str
    batch_size: int
    """Of all learners together."""
    lr: float
    """The peak, reached by a linear warm-up."""
    seed: int
    learners: int
    epochs: int
    warmup_epochs: float
    weight_noise: float
    """σ₀ of SSGD with noise."""


@dataclass(frozen=True)
class Trace:
    """Measurements during training, by step."""

    steps: list[int]
    losses: list[float]
    """Mean of the learners on their mini-batches."""
    effective_lr: list[float]
    """α_e / α, against the gradient of all training examples at the mean weight."""
    noise: list[float]
    """Δ of the step of the mean weight."""
    noise_of_batches: list[float]
    """Δ_S, its part if all gradients are computed at the mean weight."""
    spread: list[float]
    """σ_w²."""
    final_loss: float
    """Of the mean weight on training examples; infinite if any loss was."""


def image_network() -> nn.Sequential:
    """Three convolutions without normalization, so that the learners' batches do not interact."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


def frame_network(width: int, classes: int) -> nn.Sequential:
    """Two hidden layers, as for a frame with its neighbours."""
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes))


def train(run: Run, examples: Examples, network: Callable[[], nn.Module], watch: bool = False) -> Trace:
    """Trains with plain SGD and returns the measurements.

    Args:
        run: how.
        examples: to train on.
        network: the model.
        watch: measure the noise every few steps.
    """
    torch.manual_seed(seeded_generator("network", run.seed).initial_seed())
    learners = VirtualLearners(network(), nn.functional.cross_entropy)
    weights = learners.start(run.learners)
    generator = seeded_generator("batches", run.seed)
    per_epoch = len(examples.y) // run.batch_size
    trace = Trace([], [], [], [], [], [], math.inf)
    for step in range(run.epochs * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(len(examples.y), generator=generator)
        chosen = order[step % per_epoch * run.batch_size :][: run.batch_size].view(run.learners, -1)
        x, y = examples.x[chosen], examples.y[chosen]
        lr = run.lr * min(1.0, (step + 1) / (run.warmup_epochs * per_epoch))
        noisy = weights
        if run.strategy == "SSGD with noise":
            noisy = weights + run.weight_noise * torch.randn(weights.shape, generator=generator)
        gradients, losses = learners.gradients(noisy, x, y)
        loss = losses.mean().item()
        if not math.isfinite(loss):
            return trace
        if watch and step % WATCH_EVERY == 0:
            trace.steps.append(step)
            trace.losses.append(loss)
            _measure(trace, learners, weights, gradients, x, y, examples, lr)
        if STRATEGIES[run.strategy]:
            mixing = mixing_matrix(STRATEGIES[run.strategy], run.learners, run.seed, step)
            weights = dpsgd_step(weights, gradients, mixing, lr)
        else:
            weights = ssgd_step(weights, gradients, lr)
    first = examples.part(0, 2000)
    with torch.no_grad():
        _, final = learners.full_gradient(weights.mean(0), first.x, first.y)
    return Trace(**{**vars(trace), "final_loss": final if math.isfinite(final) else math.inf})


def _measure(
    trace: Trace,
    learners: VirtualLearners,
    weights: torch.Tensor,
    gradients: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    examples: Examples,
    lr: float,
) -> None:
    """Adds α_e, Δ and σ_w² of a step; the same mini-batches at the mean weight give their part of Δ."""
    mean = weights.mean(0)
    full, _ = learners.full_gradient(mean, examples.x, examples.y)
    at_mean, _ = learners.gradients(mean.expand_as(weights), x, y)
    step, batch_step = (step_diagnostics(lr, g.mean(0), full) for g in (gradients, at_mean))
    trace.effective_lr.append(step.effective_lr / lr)
    trace.noise.append(step.noise_strength)
    trace.noise_of_batches.append(batch_step.noise_strength)
    trace.spread.append(weight_spread(weights))


def parameters_of(network: Callable[[], nn.Module]) -> int:
    """A network's parameter count."""
    return flattened(network()).numel()
