"""Soft random sampling on CIFAR-10 against other ways to train on part of the images: numbers and figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrkit.console import progress_bar
from asrkit.data.soft_random_sampling import expected_coverage, soft_random_sample
from asrkit.figures import band, figure
from asrkit.studies.cifar10 import Images, read_cifar10
from asrkit.studies.image_claims import claims
from asrkit.studies.image_classification import (
    METHODS,
    EpochIndices,
    Recipe,
    accuracy,
    epoch_indices,
    full_epochs,
    importance,
    train_classifier,
)
from asrkit.studies.image_models import ImageModel, resnet18, small_cnn
from asrkit.studies.suite import run_experiments, run_once

WATCHED = ("SRS", "RS2", "fixed random")
"""Methods whose accuracy is measured after each epoch, along with the full run's."""


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    images: int = 10_000
    watched_images: int = 1_000
    """Of the test set, for the curves over epochs."""
    seeds: int = 3
    rates: tuple[float, ...] = (0.05, 0.1, 0.3)
    recipe: Recipe = field(default_factory=Recipe)
    scoring_models: int = 2
    scoring_epochs: int = 2
    model: Callable[[], ImageModel] = small_cnn


FULL = Scale(
    images=50_000,
    watched_images=10_000,
    rates=(0.05, 0.1, 0.2, 0.3),
    recipe=Recipe(epochs=200, batch_size=128, peak_lr=0.1),
    scoring_models=10,
    scoring_epochs=10,
    model=resnet18,
)
COVERAGE_EPOCHS = (1, 2, 5, 10, 20, 50, 100)


class Suite:
    """The experiments, each adding to ``results``."""

    def __init__(self, out_dir: Path, train: Images, test: Images, scale: Scale) -> None:
        self.out_dir, self.scale = out_dir, scale
        self.train, self.test = train.first(scale.images), test
        self.watched = test.first(scale.watched_images)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.results: dict[str, Any] = {
            "images": len(self.train.labels),
            "test_images": len(test.labels),
            "rates": scale.rates,
            "epochs": scale.recipe.epochs,
            "model": scale.model.__name__,
        }

    def run(self) -> dict[str, Any]:
        """All experiments, then the files."""
        return run_experiments(
            self.out_dir,
            "cifar10",
            "Soft random sampling of images",
            "Cui et al. 2023 (arXiv 2311.12727)",
            (self.coverage, self.accuracies, self.pictures),
            self.results,
            claims,
            self.scale.seeds,
        )

    def coverage(self) -> None:
        """The share of the images drawn, measured and from the formula."""
        coverage: dict[str, Any] = {"epochs": COVERAGE_EPOCHS, "rates": {}}
        n = self.results["images"]
        with figure(self.out_dir / "coverage.png", 1, 1) as (axes,):
            for rate in self.scale.rates:
                drawn = torch.zeros(n, dtype=torch.bool)
                measured = []
                for epoch in range(1, COVERAGE_EPOCHS[-1] + 1):
                    drawn[soft_random_sample(n, rate, 1, epoch)] = True
                    if epoch in COVERAGE_EPOCHS:
                        measured.append(drawn.float().mean().item())
                expected = [expected_coverage(n, rate, epoch) for epoch in COVERAGE_EPOCHS]
                coverage["rates"][str(rate)] = {"measured": measured, "expected": expected}
                (points,) = axes.plot(COVERAGE_EPOCHS, measured, "o", label=f"r = {rate}")
                axes.plot(COVERAGE_EPOCHS, expected, color=points.get_color())
                axes.plot(
                    COVERAGE_EPOCHS, [1 - (1 - rate) ** k for k in COVERAGE_EPOCHS], ":", color=points.get_color()
                )
            axes.set(xlabel="epoch", ylabel="images drawn so far", ylim=(0, 1.02), xscale="log")
            axes.set_title("line: 1 - (1 - 1/N)^(krN); dotted: without replacement, 1 - (1 - r)^k", fontsize=8)
            axes.legend()
        self.results["coverage"] = coverage

    def accuracies(self) -> None:
        """Every method at every rate, for every seed."""
        runs: list[dict[str, Any]] = []
        trainings = self.scale.seeds * (1 + len(self.scale.rates) * len(METHODS))
        with progress_bar("cifar10", trainings) as bar:
            for seed in range(1, self.scale.seeds + 1):
                n = self.results["images"]
                runs.append(self._train(full_epochs(n, seed), "full", 1.0, seed, 0.0))
                bar.advance(f"seed {seed}: full {runs[-1]['accuracy']:.3f}")
                scores, seconds = self._scores(seed)
                for rate in self.scale.rates:
                    for method in METHODS:
                        start = time.perf_counter()
                        indices = epoch_indices(method, n, rate, seed, scores)
                        selection = time.perf_counter() - start + (seconds if method in scores else 0.0)
                        runs.append(self._train(indices, method, rate, seed, selection))
                        bar.advance(f"seed {seed}: {method} at {rate}: {runs[-1]['accuracy']:.3f}")
        self.results["runs"] = runs

    def _train(self, indices: EpochIndices, method: str, rate: float, seed: int, selection: float) -> dict[str, Any]:
        model = self._model(seed)
        curve: list[float] = []

        def watch(epoch: int) -> None:
            curve.append(accuracy(model, self.watched).mean().item())

        watched = watch if method in WATCHED or method == "full" else None
        trained = train_classifier(model, self.train, indices, self.scale.recipe, seed, after_epoch=watched)
        return {
            "method": method,
            "rate": rate,
            "seed": seed,
            "accuracy": accuracy(model, self.test).mean().item(),
            "steps": trained.steps,
            "samples": trained.samples,
            "seconds": trained.seconds,
            "selection_seconds": selection,
            "curve": curve,
        }

    def _scores(self, seed: int) -> tuple[dict[str, torch.Tensor], float]:
        """Mean importance over briefly trained models, and the seconds it took."""
        start = time.perf_counter()
        total: dict[str, torch.Tensor] = {}
        brief = replace(self.scale.recipe, epochs=self.scale.scoring_epochs)
        for number in range(self.scale.scoring_models):
            own_seed = 1000 * seed + number
            model = self._model(own_seed)
            indices = full_epochs(self.results["images"], own_seed)
            train_classifier(model, self.train, indices, brief, own_seed)
            for name, scores in importance(model, self.train).items():
                total[name] = total.get(name, torch.zeros(1)) + scores / self.scale.scoring_models
        return total, time.perf_counter() - start

    def _model(self, seed: int) -> ImageModel:
        torch.manual_seed(seed)
        return self.scale.model().to(self.device)

    def pictures(self) -> None:
        """Accuracy by rate, by samples seen, and by time."""
        runs, rates = self.results["runs"], self.scale.rates
        full = np.array([run["accuracy"] for run in runs if run["method"] == "full"])
        with figure(self.out_dir / "rates.png", 1, 2) as (left, right):
            for method in METHODS:
                cells = [[run for run in runs if (run["method"], run["rate"]) == (method, rate)] for rate in rates]
                values = np.array([[run["accuracy"] for run in cell] for cell in cells])
                band(left, rates, values, method)
                spent = [np.mean([run["seconds"] + run["selection_seconds"] for run in cell]) for cell in cells]
                band(right, spent, values, method)
            left.axhline(full.mean(), color="black", linestyle="--", label="full")
            full_spent = np.mean([run["seconds"] for run in runs if run["method"] == "full"])
            right.plot([full_spent], [full.mean()], "k*", label="full")
            left.set(xlabel="selection rate r", ylabel="test accuracy")
            right.set(xlabel="seconds of training and selection", ylabel="test accuracy", xscale="log")
            left.legend(fontsize=7)
            right.legend(fontsize=7)
        with figure(self.out_dir / "samples.png", 1, len(rates)) as panels:
            for axes, rate in zip(panels, rates, strict=True):
                for method in ("full", *WATCHED):
                    cell = [run for run in runs if run["method"] == method and run["rate"] in (rate, 1.0)]
                    curves = np.array([run["curve"] for run in cell]).T
                    seen = [cell[0]["samples"] * (epoch + 1) / len(curves) for epoch in range(len(curves))]
                    band(axes, seen, curves, method)
                axes.set(
                    xlabel="images seen", ylabel="accuracy, a part of the test set", xscale="log", title=f"r = {rate}"
                )
                axes.legend(fontsize=7)


def run_images(out_dir: Path, data_dir: Path, full: bool = False) -> dict[str, Any]:
    """Runs the suite, or reads an earlier run's results; ``full`` uses ResNet-18 and 200 epochs of all images."""

    scale = FULL if full else Scale()

    def run() -> dict[str, Any]:
        train, test = read_cifar10(data_dir)
        return Suite(out_dir, train, test, scale).run()

    return run_once(out_dir, scale, str(data_dir.resolve()), run)
