"""The experiments of Li et al. 2024 (arXiv 2402.15607) on :mod:`asrkit.studies.icl`: numbers, figures, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrkit.figures import band, figure
from asrkit.randomness import seeded_generator
from asrkit.studies.fits import first_below, power_law
from asrkit.studies.icl import (
    Prompts,
    World,
    all_tasks,
    draw_prompts,
    initial_parameters,
    measure,
    neuron_directions,
    pruned,
    train,
    training_tasks,
    unseen_tasks,
)
from asrkit.studies.icl_claims import claims
from asrkit.studies.icl_models import CLASSICAL, DeepTransformer, classical_errors, deep_error, train_deep
from asrkit.studies.one_layer import Tensors
from asrkit.studies.suite import run_experiments, run_once

WORLD = World()
NEURONS, DELTA, LR, STEPS = 100, 0.2, 0.1, 500
ALPHA, LENGTH = 0.8, 20
COEFFICIENT_SUMS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3)
PRUNING = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
ALPHAS = (0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
LENGTHS_TRAINED, TRAINED_STEPS = (4, 8, 12, 20, 40), 300
SWEEP_STEPS, HINGE = 600, 0.1


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    seeds: int = 5
    batch: int = 256
    test_prompts: int = 4000
    sweep_seeds: int = 3
    deep_steps: int = 1500
    deep_seeds: int = 2
    classical_prompts: int = 400


FULL = Scale(seeds=10, test_prompts=20_000, sweep_seeds=10, deep_steps=20_000, deep_seeds=5, classical_prompts=2000)


class Suite:
    """The experiments, each adding to ``results``."""

    def __init__(self, out_dir: Path, scale: Scale) -> None:
        self.out_dir, self.scale = out_dir, scale
        self.seeds = list(range(1, scale.seeds + 1))
        self.results: dict[str, Any] = {}
        self.generator = seeded_generator(20240215)
        self.parameters: Tensors = {}

    def run(self) -> dict[str, Any]:
        """All experiments, then the files."""
        experiments = (
            self.dynamics,
            self.generalization,
            self.training_length,
            self.out_of_domain,
            self.pruning,
            self.scaling,
            self.classical,
            self.deep,
        )
        return run_experiments(
            self.out_dir,
            "icl",
            "In-context learning",
            "Li et al. 2024 (arXiv 2402.15607)",
            experiments,
            self.results,
            claims,
            len(self.seeds),
        )

    def prompts(self, runs: int, alpha: float, length: int, count: int | None = None) -> Prompts:
        """In-domain test prompts of unseen tasks, as many as the scale says unless ``count`` is given."""
        return draw_prompts(
            WORLD,
            WORLD.relevant_patterns(),
            unseen_tasks(WORLD.relevant),
            torch.full((runs,), alpha),
            count or self.scale.test_prompts,
            length,
            self.generator,
        )

    def foreign_prompts(self, runs: int, coefficient_sum: float, length: int, alpha: float) -> Prompts:
        """Out-of-domain test prompts."""
        patterns = WORLD.out_of_domain_patterns(coefficient_sum)
        return draw_prompts(
            WORLD,
            patterns,
            all_tasks(len(patterns)),
            torch.full((runs,), alpha),
            self.scale.test_prompts,
            length,
            self.generator,
        )

    def fresh(self, alphas: Sequence[float], length: int) -> Callable[[], Prompts]:
        """Training batches, one run per α."""
        shares = torch.tensor(list(alphas))
        patterns, tasks = WORLD.relevant_patterns(), training_tasks(WORLD.relevant)
        return lambda: draw_prompts(WORLD, patterns, tasks, shares, self.scale.batch, length, self.generator)

    def dynamics(self) -> None:
        """Training of all seeds: error, hinge, attention."""
        test = self.prompts(len(self.seeds), ALPHA, LENGTH)
        steps, rows = [], []

        def watch(step: int, parameters: Tensors) -> None:
            if step % 10 == 0:
                measured = measure(parameters, test)
                steps.append(step)
                rows.append(torch.stack([measured.error, measured.hinge, measured.same_pattern]))

        start = initial_parameters(WORLD, NEURONS, DELTA, self.seeds)
        self.parameters = train(start, self.fresh([ALPHA] * len(self.seeds), LENGTH), STEPS, LR, watch)
        history = torch.stack(rows).numpy()  # (steps, 3, S)
        norms, feature, label = neuron_directions(self.parameters, WORLD)
        large = norms > norms.median(dim=1, keepdim=True).values
        self.results["dynamics"] = {
            "steps": steps,
            "error": history[:, 0].tolist(),
            "hinge": history[:, 1].tolist(),
            "attention": history[:, 2].tolist(),
        }
        self.results["neurons"] = {
            "feature_cosine": feature[large].mean().item(),
            "label_cosine": label[large].mean().item(),
            "norm_percentiles": {str(q): float(np.percentile(norms.numpy(), q)) for q in (10, 50, 100)},
        }
        with figure(self.out_dir / "training.png", 1, 2) as (left, right):
            for values, name in ((history[:, 0], "error, unseen tasks"), (history[:, 1], "hinge loss")):
                band(left, steps, values, name)
            left.set(xlabel="iteration", ylabel="mean over seeds, ± standard deviation")
            left.legend()
            band(right, steps, history[:, 2], "on contexts with the query's pattern")
            right.axhline(1.0, color="grey", linestyle=":", label="theory: tends to 1")
            right.set(xlabel="iteration", ylabel="attention", ylim=(0, 1.05))
            right.legend()
        with figure(self.out_dir / "neurons.png", 1, 2) as (left, right):
            for axes, cosine, what in (
                (left, feature, "input part with mean pattern"),
                (right, label, "label part with ±q"),
            ):
                axes.scatter(norms[0], cosine[0], s=12)
                axes.set(xlabel="norm of the row of $W_O$", ylabel=f"cosine of the row's {what}")

    def generalization(self) -> None:
        """Test error by the number of contexts, in and out of domain."""
        lengths = (2, 4, 6, 8, 12, 16, 20)
        table: dict[str, Any] = {"lengths": lengths}
        with figure(self.out_dir / "length.png", 1, 2) as panels:
            for axes, domain in zip(panels, ("in domain", "out of domain, $S_1$ = 1.1"), strict=True):
                for alpha in (1.0, 0.8, 0.6):
                    rows = [
                        measure(
                            self.parameters,
                            self.prompts(len(self.seeds), alpha, n)
                            if domain == "in domain"
                            else self.foreign_prompts(len(self.seeds), 1.1, n, alpha),
                        ).error
                        for n in lengths
                    ]
                    values = torch.stack(rows).numpy()
                    band(axes, lengths, values, f"α' = {alpha}")
                    missing = (1 - alpha / 2) ** np.array(lengths)
                    axes.plot(lengths, missing, ":", color=axes.lines[-1].get_color())
                    table[f"{domain.split(',')[0]} {alpha}"] = values.tolist()
                axes.set(xlabel="contexts of a test prompt", ylabel="error")
                axes.set_title(f"{domain} (dotted: $(1-α'/2)^l$, none has the query's pattern)", fontsize=9)
                axes.legend()
        self.results["length"] = table

    def training_length(self) -> None:
        """Test error after training on shorter and longer prompts."""
        lengths, table = LENGTHS_TRAINED, {}
        for n in lengths:
            start = initial_parameters(WORLD, NEURONS, DELTA, self.seeds)
            trained = train(start, self.fresh([ALPHA] * len(self.seeds), n), TRAINED_STEPS, LR)
            table[n] = measure(trained, self.prompts(len(self.seeds), ALPHA, LENGTH)).hinge.tolist()
        self.results["training_length"] = {"lengths": lengths, "hinge": [table[n] for n in lengths]}
        with figure(self.out_dir / "training_length.png", 1, 1) as (axes,):
            band(axes, lengths, np.array([table[n] for n in lengths]), f"{TRAINED_STEPS} iterations, α = {ALPHA}")
            axes.set(xlabel="contexts of a training prompt", ylabel="hinge loss, 20 test contexts", yscale="log")
            axes.legend()

    def out_of_domain(self) -> None:
        """Hinge and error of prompts over patterns unseen in training."""
        rows = [
            measure(self.parameters, self.foreign_prompts(len(self.seeds), s, LENGTH, ALPHA)) for s in COEFFICIENT_SUMS
        ]
        hinge = torch.stack([row.hinge for row in rows]).numpy()
        error = torch.stack([row.error for row in rows]).numpy()
        self.results["out_of_domain"] = {"S1": COEFFICIENT_SUMS, "hinge": hinge.tolist(), "error": error.tolist()}
        with figure(self.out_dir / "out_of_domain.png", 1, 1) as (axes,):
            band(axes, COEFFICIENT_SUMS, hinge, "hinge loss")
            band(axes, COEFFICIENT_SUMS, error, "error")
            axes.axvline(1.0, color="grey", linestyle=":", label="theory: $S_1 \\geq 1$ suffices")
            axes.set(xlabel="sum of coefficients, $S_1$", ylabel="20 contexts, α' = 0.8")
            axes.set_yscale("symlog", linthresh=1e-3)
            axes.set_ylim(bottom=0)
            axes.legend()

    def pruning(self) -> None:
        """Hinge after rows of W_O are removed."""
        test = self.foreign_prompts(len(self.seeds), 1.1, LENGTH, ALPHA)
        table: dict[str, Any] = {"share": PRUNING}
        with figure(self.out_dir / "pruning.png", 1, 1) as (axes,):
            for which in ("smallest", "random", "largest"):
                values = torch.stack(
                    [measure(pruned(self.parameters, share, which, self.generator), test).hinge for share in PRUNING]
                ).numpy()
                table[which] = values.tolist()
                band(axes, PRUNING, values, f"{which} rows")
            axes.set(xlabel="share of the rows of $W_O$ removed", ylabel="hinge loss, out of domain")
            axes.legend()
        self.results["pruning"] = table

    def scaling(self) -> None:
        """Iterations until the hinge loss is below ``HINGE``, by α."""
        runs = [alpha for alpha in ALPHAS for _ in range(self.scale.sweep_seeds)]
        seeds = list(range(1, self.scale.sweep_seeds + 1)) * len(ALPHAS)
        history: list[torch.Tensor] = []
        test = self.prompts(len(runs), 1.0, 40, count=200)

        def watch(step: int, parameters: Tensors) -> None:
            history.append(measure(parameters, test).hinge)

        train(initial_parameters(WORLD, NEURONS, DELTA, seeds), self.fresh(runs, 40), SWEEP_STEPS, LR, watch)
        first = first_below(torch.stack(history), HINGE).view(len(ALPHAS), -1).numpy().astype(float)
        first[first < 0] = np.nan
        mean = np.nanmean(first, axis=1)
        slope, factor = power_law(ALPHAS[2:], mean[2:])
        self.results["scaling"] = {
            "alpha": ALPHAS,
            "iterations": first.tolist(),
            "slope": slope,
            "slope_all": power_law(ALPHAS, mean)[0],
        }
        with figure(self.out_dir / "scaling.png", 1, 1) as (axes,):
            axes.errorbar(ALPHAS, mean, np.nanstd(first, axis=1), fmt="o", label="measured")
            axes.plot(ALPHAS, factor * np.array(ALPHAS) ** slope, label=f"fit on α ≥ 0.4: slope {slope:.2f}")
            theory = mean[-1] * np.array(ALPHAS) ** (-2 / 3)
            axes.plot(ALPHAS, theory, "k:", label="theory: slope -2/3")
            axes.set(xlabel="α", ylabel="iterations to hinge 0.1", xscale="log", yscale="log")
            axes.legend()

    def classical(self) -> None:
        """Learners fitted to each prompt's contexts."""
        lengths = (6, 8, 12, 16, 20)
        table: dict[str, Any] = {"lengths": lengths}
        with figure(self.out_dir / "classical.png", 1, 2) as panels:
            for axes, alpha in zip(panels, (0.8, 0.6), strict=True):
                errors: dict[str, list[float]] = {name: [] for name in ("in-context learning", *CLASSICAL)}
                for n in lengths:
                    prompts = self.prompts(len(self.seeds), alpha, n)
                    errors["in-context learning"].append(measure(self.parameters, prompts).error.mean().item())
                    few = Prompts(*(part[:1, : self.scale.classical_prompts] for part in vars(prompts).values()))
                    for name, value in classical_errors(few).items():
                        errors[name].append(value)
                for name, values in errors.items():
                    axes.plot(lengths, values, "o-" if name.startswith("in") else ".--", label=name)
                table[str(alpha)] = errors
                axes.set(xlabel="contexts", ylabel="error", title=f"α' = {alpha}")
                axes.legend(fontsize=7)
        self.results["classical"] = table

    def deep(self) -> None:
        """Three layers, two heads: error out of domain by S_1."""
        sums = (0.5, 0.7, 0.9, 1.1, 1.3)
        rows, in_domain = [], []
        for seed in range(1, self.scale.deep_seeds + 1):
            torch.manual_seed(seed)
            model = DeepTransformer(2 * WORLD.input_dim)
            train_deep(model, self.fresh([ALPHA], LENGTH), self.scale.deep_steps, 1e-3)
            rows.append([deep_error(model, self.foreign_prompts(1, s, LENGTH, ALPHA)) for s in sums])
            in_domain.append(deep_error(model, self.prompts(1, ALPHA, LENGTH)))
        values = np.array(rows).T
        self.results["deep"] = {"S1": sums, "error": values.tolist(), "in_domain": in_domain}
        with figure(self.out_dir / "deep.png", 1, 1) as (axes,):
            band(axes, sums, values, "3 layers, 2 heads, out of domain")
            axes.axhline(float(np.mean(in_domain)), color="C1", linestyle="--", label="unseen tasks, in domain")
            axes.axvline(1.0, color="grey", linestyle=":", label="theory (one layer): $S_1 \\geq 1$ suffices")
            axes.set(xlabel="sum of coefficients, $S_1$", ylabel="error, 20 contexts")
            axes.legend()


def run_icl(out_dir: Path, full: bool) -> dict[str, Any]:
    """Runs the suite, or reads an earlier run's results.

    Args:
        out_dir: where results.json, RESULTS.md and the figures go.
        full: more seeds, prompts and steps.
    """
    scale = FULL if full else Scale()
    return run_once(out_dir, scale, "", Suite(out_dir, scale).run)
