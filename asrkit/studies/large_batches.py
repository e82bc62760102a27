"""Which learners cope with large batches: synchronous and decentralized SGD on images (Zhang et al. 2021,
arXiv 2112.01433).

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
from asrkit.studies.cifar10 import Images

STRATEGIES = {"SSGD": "", "SSGD with noise": "", "DPSGD": "random_pairs", "D1D": AVERAGE}
"""Which weights each one's learners average."""
WATCH_EVERY = 4
"""Steps between noise measurements."""


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
    """α_e / α, against the gradient of the reference images at the mean weight."""
    noise: list[float]
    """Δ of the step of the mean weight."""
    noise_of_batches: list[float]
    """Δ_S, its part when all gradients are taken at the mean weight."""
    spread: list[float]
    """σ_w²."""
    final_loss: float
    """Of the mean weight on the training images; infinite if any loss was."""


def small_network() -> nn.Sequential:
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


def train(
    run: Run, images: Images, reference: Images, network: Callable[[], nn.Module] = small_network, watch: bool = False
) -> Trace:
    """Trains with plain SGD and returns the measurements.

    Args:
        run: how.
        images: training images.
        reference: images whose gradient the steps are compared with.
        network: the model.
        watch: measure the noise every few steps.
    """
    torch.manual_seed(seeded_generator("network", run.seed).initial_seed())
    learners = VirtualLearners(network(), nn.functional.cross_entropy)
    weights = learners.start(run.learners)
    generator = seeded_generator("batches", run.seed)
    per_epoch = len(images.labels) // run.batch_size
    trace = Trace([], [], [], [], [], [], math.inf)
    for step in range(run.epochs * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(len(images.labels), generator=generator)
        chosen = order[step % per_epoch * run.batch_size :][: run.batch_size].view(run.learners, -1)
        x, y = images.images[chosen], images.labels[chosen]
        lr = run.lr * min(1.0, (step + 1) / (run.warmup_epochs * per_epoch))
        place = weights
        if run.strategy == "SSGD with noise":
            place = weights + run.weight_noise * torch.randn(weights.shape, generator=generator)
        gradients, losses = learners.gradients(place, x, y)
        loss = losses.mean().item()
        if not math.isfinite(loss):
            return trace
        if watch and step % WATCH_EVERY == 0:
            trace.steps.append(step)
            trace.losses.append(loss)
            _measure(trace, learners, weights, gradients, x, y, reference, lr)
        if STRATEGIES[run.strategy]:
            mixing = mixing_matrix(STRATEGIES[run.strategy], run.learners, run.seed, step)
            weights = dpsgd_step(weights, gradients, mixing, lr)
        else:
            weights = ssgd_step(weights, gradients, lr)
    some = images.first(2000)
    with torch.no_grad():
        _, final = learners.full_gradient(weights.mean(0), some.images, some.labels)
    return Trace(**{**vars(trace), "final_loss": final if math.isfinite(final) else math.inf})


def _measure(
    trace: Trace,
    learners: VirtualLearners,
    weights: torch.Tensor,
    gradients: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    reference: Images,
    lr: float,
) -> None:
    """Adds α_e, Δ and σ_w² of a step; the same mini-batches at the mean weight give their part of Δ."""
    mean = weights.mean(0)
    full, _ = learners.full_gradient(mean, reference.images, reference.labels)
    at_mean, _ = learners.gradients(mean.expand_as(weights), x, y)
    step, of_batches = (step_diagnostics(lr, g.mean(0), full) for g in (gradients, at_mean))
    trace.effective_lr.append(step.effective_lr / lr)
    trace.noise.append(step.noise_strength)
    trace.noise_of_batches.append(of_batches.noise_strength)
    trace.spread.append(weight_spread(weights))


def parameters_of(network: Callable[[], nn.Module]) -> int:
    """A network's parameter count."""
    return flattened(network()).numel()
