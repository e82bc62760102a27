"""Training image classifiers on part of the images: soft random sampling and its baselines.

Cui et al. 2023 (arXiv 2311.12727): with a selection rate r, an epoch sees r·N images. They are redrawn each
epoch with replacement (soft random sampling) or without (RS2), drawn once at random, or chosen once by an importance
score, EL2N or GraNd (Paul et al. 2021, arXiv 2107.07075).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from asrkit.data.soft_random_sampling import draw_size, soft_random_sample
from asrkit.data.subsets import fixed_subset, highest_scores, repeated_subset
from asrkit.devices import autocast, resolve_autocast
from asrkit.randomness import seeded_generator
from asrkit.studies.cifar10 import Images
from asrkit.studies.image_models import ImageModel

EpochIndices = Callable[[int], torch.Tensor]
"""An epoch (from 1) to the indices that it trains on, in order."""
METHODS = ("SRS", "RS2", "fixed random", "EL2N", "GraNd", "full, fewer epochs")
MAX_SHIFT = 4


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained."""

    epochs: int = 10
    batch_size: int = 64
    peak_lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = True
    """Flip and shift images; not if left and right matter, as in digits."""


@dataclass(frozen=True)
class Trained:
    """The result of training."""

    steps: int
    samples: int
    seconds: float


def epoch_indices(method: str, n: int, rate: float, seed: int, scores: dict[str, torch.Tensor]) -> EpochIndices:
    """What a method trains on.

    Args:
        method: of ``METHODS``. ``full, fewer epochs`` goes through all images in turn, r·N per "epoch": the baseline of
            all data with as many updates.
        n: images.
        rate: share of them in an epoch.
        seed: for the draws.
        scores: (N,) importance by name, for the methods that keep the highest.
    """
    if method == "SRS":
        return lambda epoch: soft_random_sample(n, rate, seed, epoch)
    if method == "RS2":
        return lambda epoch: repeated_subset(n, rate, seed, epoch)
    if method == "full, fewer epochs":
        return lambda epoch: _in_turn(n, draw_size(n, rate), seed, epoch)
    subset = fixed_subset(n, rate, seed) if method == "fixed random" else highest_scores(scores[method], rate)
    return lambda epoch: subset[repeated_subset(len(subset), 1.0, seed, epoch)]


def _in_turn(n: int, size: int, seed: int, epoch: int) -> torch.Tensor:
    """The part of an endless sequence of permutations that an epoch of ``size`` images gets."""
    places = torch.arange((epoch - 1) * size, epoch * size)
    rounds = {int(r): repeated_subset(n, 1.0, seed, int(r) + 1) for r in torch.unique(places // n)}
    return torch.stack([rounds[int(place) // n][int(place) % n] for place in places])


def full_epochs(n: int, seed: int) -> EpochIndices:
    """All images, in a new order each epoch."""
    return lambda epoch: repeated_subset(n, 1.0, seed, epoch)


def train_classifier(
    model: ImageModel,
    data: Images,
    indices: EpochIndices,
    recipe: Recipe,
    seed: int,
    after_epoch: Callable[[int], None] | None = None,
) -> Trained:
    """SGD with Nesterov momentum and cosine decay to 0 over the run; images may be flipped and shifted.

    Each epoch makes floor(draws / batch) updates and drops the rest, as loaders often do.

    Args:
        model: changed in place.
        data: what the indices point to.
        indices: by epoch.
        recipe: how.
        seed: for flips and shifts.
        after_epoch: called with the epoch's number.

    Raises:
        ValueError: an epoch's draw is smaller than a batch.
    """
    device = next(model.parameters()).device
    epochs, steps_per_epoch = recipe.epochs, len(indices(1)) // recipe.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"{len(indices(1))} images per epoch make no batch of {recipe.batch_size}; use a smaller batch"
        )
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.peak_lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
    generator = seeded_generator(seed)
    start, outside, samples = time.perf_counter(), 0.0, 0
    for epoch in range(1, epochs + 1):
        model.train()
        drawn = indices(epoch)
        for first in range(0, steps_per_epoch * recipe.batch_size, recipe.batch_size):
            chosen = drawn[first : first + recipe.batch_size]
            x = data.images[chosen]
            if recipe.augment:
                x = flipped_and_shifted(x, generator)
            x = x.to(device, memory_format=torch.channels_last)
            with autocast(device, resolve_autocast(device, "auto")):
                logits = model(x)
            loss = functional.cross_entropy(logits.float(), data.labels[chosen].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            samples += len(chosen)
        if after_epoch:
            paused = time.perf_counter()
            after_epoch(epoch)
            outside += time.perf_counter() - paused
    return Trained(epochs * steps_per_epoch, samples, time.perf_counter() - start - outside)


def flipped_and_shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) with half of the images mirrored, and each shifted by up to 4 pixels with zero padding."""
    batch, _, height, width = x.shape
    flip = torch.rand(batch, generator=generator) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
    padded = functional.pad(x, (MAX_SHIFT,) * 4)
    moved = torch.randint(2 * MAX_SHIFT + 1, (2, batch, 1), generator=generator)
    rows, columns = moved[0] + torch.arange(height), moved[1] + torch.arange(width)  # (B, H), (B, W)
    by_image = torch.arange(batch).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[by_image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(model: ImageModel, data: Images, batch_size: int = 500) -> torch.Tensor:
    """(N,) 1 if the label is right."""
    return torch.cat(
        [(logits.argmax(1) == labels).float() for logits, _, labels in _outputs(model, data, batch_size, "auto")]
    )


@torch.inference_mode()
def importance(model: ImageModel, data: Images, batch_size: int = 500) -> dict[str, torch.Tensor]:
    """(N,) scores of the images from a briefly trained model.

    EL2N is ‖softmax − one-hot‖₂; GraNd the norm of the loss gradient of the last layer's weights and biases, which is
    EL2N · √(‖h‖² + 1) with h that layer's input.
    """
    errors, norms = [], []
    for logits, hidden, labels in _outputs(model, data, batch_size, "none"):
        error = (logits.softmax(1) - functional.one_hot(labels, logits.shape[1])).norm(dim=1)
        errors.append(error)
        norms.append(error * (hidden.square().sum(1) + 1.0).sqrt())
    return {"EL2N": torch.cat(errors), "GraNd": torch.cat(norms)}


def _outputs(
    model: ImageModel, data: Images, batch_size: int, precision: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Logits, last hidden layer and labels of each batch, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    for first in range(0, len(data.labels), batch_size):
        x = data.images[first : first + batch_size].to(device, memory_format=torch.channels_last)
        with autocast(device, resolve_autocast(device, precision)):
            hidden = model.embed(x)
            logits = model.output(hidden)
        yield logits.float().cpu(), hidden.float().cpu(), data.labels[first : first + batch_size]
