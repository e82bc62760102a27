"""The experiments of Li et al. 2025 (arXiv 2410.02167) on :mod:`asrkit.studies.cot`: numbers and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrkit.figures import band, figure
from asrkit.randomness import seeded_generator
from asrkit.studies.cot import (
    Noise,
    Prompts,
    TestSet,
    World,
    attention_groups,
    chain_error,
    chain_of_thought,
    draw_test_set,
    final_error,
    first_patterns,
    in_context_learning,
    initial_parameters,
    label_vote,
    majority_vote,
    squared_error,
    train,
    training_prompts,
    trajectory_probability,
    with_tokens,
)
from asrkit.studies.cot_claims import claims
from asrkit.studies.fits import first_below, power_law
from asrkit.studies.one_layer import Tensors
from asrkit.studies.suite import run_experiments, run_once

WORLD = World()
DELTA, LR, ALPHA, EXAMPLES, STEPS = 0.2, 1.0, 0.4, 20, 1000
LENGTHS = (5, 10, 20, 40, 60, 100)
SERIES: dict[str, tuple[float, ...]] = {
    "alpha": (0.4, 0.6, 0.8, 1.0),
    "tau": (0.4, 0.5, 0.6, 0.7),
    "rho": (0.5, 0.6, 0.7, 0.8),
}
SYMBOLS = {"alpha": "α'", "tau": "τ", "rho": "ρ"}
SWEEP_STEPS, LOSS = 700, 0.02
SWEEP = (0.2, 0.3, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    seeds: int = 5
    queries: int = 400
    sweep_seeds: int = 2


FULL = Scale(seeds=10, queries=4000, sweep_seeds=5)


class Suite:
    """The experiments, each adding to ``results``."""

    def __init__(self, out_dir: Path, scale: Scale) -> None:
        self.out_dir, self.scale = out_dir, scale
        self.seeds = list(range(1, scale.seeds + 1))
        self.results: dict[str, Any] = {"lengths": LENGTHS}
        self.generator = seeded_generator(20241002)
        self.patterns = WORLD.testing_patterns(self.generator)
        self.parameters: Tensors = {}

    def run(self) -> dict[str, Any]:
        """All experiments, then the files."""
        experiments = (self.dynamics, self.curves, self.condition, self.scaling)
        return run_experiments(
            self.out_dir,
            "cot",
            "Chain of thought",
            "Li et al. 2025 (arXiv 2410.02167)",
            experiments,
            self.results,
            claims,
            len(self.seeds),
        )

    def dynamics(self) -> None:
        """Training of all seeds, and where attention goes."""
        shares = torch.full((len(self.seeds),), ALPHA)
        watched = training_prompts(WORLD, shares, 200, EXAMPLES, self.generator)
        steps, groups = [], []

        def watch(step: int, parameters: Tensors) -> None:
            if step % 20 == 0:
                steps.append(step)
                groups.append(attention_groups(parameters, watched))

        start = initial_parameters(WORLD, DELTA, self.seeds)
        self.parameters = train(
            start, lambda: training_prompts(WORLD, shares, 128, EXAMPLES, self.generator), STEPS, LR, watch
        )
        values = torch.stack(groups).numpy()  # (steps, 4, S)
        names = ("same pattern, same step", "same pattern, other step", "other pattern, same step", "neither")
        self.results["dynamics"] = {"steps": steps, "groups": values.tolist(), "names": names}
        with figure(self.out_dir / "attention.png", 1, 1) as (axes,):
            for n, name in enumerate(names):
                band(axes, steps, values[:, n], name)
            away = values[:, 1] + values[:, 3]
            first = steps[int((away.mean(1) < 0.05).argmax())]
            axes.axvline(first, color="grey", linestyle=":", label="stage 1 ends: the step is known")
            axes.set(xlabel="iteration", ylabel="attention", ylim=(0, 1))
            axes.legend(fontsize=8)

    def test_set(self, noise: Noise, alpha: float, length: int) -> TestSet:
        """Test prompts for every seed."""
        shares = torch.full((len(self.seeds),), alpha)
        return draw_test_set(WORLD, noise, self.patterns, shares, self.scale.queries, length, self.generator)

    def curves(self) -> None:
        """Errors by the number of examples, for series of α', τ and ρ, with chain of thought and in context."""
        for setting, values in SERIES.items():
            chain: dict[str, Any] = {}
            context: dict[str, Any] = {}
            with figure(self.out_dir / f"{setting}.png", 1, 2) as (left, right):
                for value in values:
                    noise = Noise() if setting == "alpha" else replace(Noise(), **{setting: value})
                    alpha = value if setting == "alpha" else 0.8
                    sets = [self.test_set(noise, alpha, length) for length in LENGTHS]
                    by_chain = self._errors(sets, chained=True)
                    by_context = self._errors(sets, chained=False)
                    chain[str(value)], context[str(value)] = by_chain.tolist(), by_context.tolist()
                    step_votes = [chain_error(majority_vote(test), test).mean().item() for test in sets]
                    band(left, LENGTHS, by_chain, f"{SYMBOLS[setting]} = {value}")
                    left.plot(LENGTHS, step_votes, ":", color=left.lines[-1].get_color())
                    band(right, LENGTHS, by_context, f"{SYMBOLS[setting]} = {value}")
                    label_votes = [final_error(label_vote(test), test).mean().item() for test in sets]
                    right.plot(LENGTHS, label_votes, ":", color=right.lines[-1].get_color())
                for axes, title in (
                    (left, "chain of thought (dotted: majority vote, as theory has it)"),
                    (right, "in context (dotted: vote of the final labels)"),
                ):
                    axes.set(xlabel="examples in the prompt", ylabel="error")
                    axes.set_title(title, fontsize=9)
                    axes.set_yscale("symlog", linthresh=1e-3)
                    axes.set_ylim(bottom=0)
                    axes.legend()
            self.results[setting] = {"chain": chain, "context": context}

    def _errors(self, sets: Sequence[TestSet], chained: bool) -> np.ndarray:
        """(lengths, seeds)."""
        rows = []
        for test in sets:
            if chained:
                rows.append(chain_error(chain_of_thought(self.parameters, WORLD, test), test))
            else:
                rows.append(final_error(in_context_learning(self.parameters, WORLD, test), test))
        return torch.stack(rows).numpy()

    def condition(self) -> None:
        """A task whose wrong steps agree on a wrong label: in-context learning cannot learn it."""
        first, second = misleading_matrices(WORLD.test_patterns)
        _, tau, tau_o, holds = trajectory_probability([first, second])
        lengths = (10, 20, 40, 100, 200)
        results: dict[str, Any] = {"lengths": lengths, "tau": tau, "tau_o": tau_o, "holds": holds.tolist()}
        chain, context = [], []
        for length in lengths:
            test = self._misled((first, second), length)
            chain.append(chain_error(chain_of_thought(self.parameters, WORLD, test), test))
            context.append(final_error(in_context_learning(self.parameters, WORLD, test), test))
        usual = [self.test_set(Noise(), 0.8, length) for length in lengths]
        series = {
            "chain of thought": torch.stack(chain).numpy(),
            "in context, condition 1 violated": torch.stack(context).numpy(),
            "in context, condition 1 holds": self._errors(usual, chained=False),
        }
        with figure(self.out_dir / "condition.png", 1, 1) as (axes,):
            for name, values in series.items():
                band(axes, lengths, values, name)
                results[name] = values.tolist()
            axes.set(xlabel="examples in the prompt", ylabel="error", ylim=(-0.02, 1.02))
            axes.legend()
        self.results["condition"] = results

    def _misled(self, matrices: Sequence[torch.Tensor], length: int) -> TestSet:
        """Test prompts of the task with these matrices, whose queries violate condition 1."""
        shape = (len(self.seeds), self.scale.queries)
        query_pattern = 2 * torch.randint(WORLD.test_patterns // 2, shape, generator=self.generator)
        shares = torch.full(shape[:1], 0.8)
        states = [first_patterns(query_pattern, shares, length, WORLD.test_patterns, self.generator)]
        truth = [query_pattern]
        for matrix in matrices:
            drawn = torch.multinomial(matrix[states[-1].flatten()], 1, generator=self.generator)
            states.append(drawn.view(states[-1].shape))
            truth.append(matrix.argmax(1)[truth[-1]])
        return with_tokens(
            Noise(), self.patterns, torch.stack(states, dim=-1), torch.stack(truth, dim=-1), self.generator
        )

    def scaling(self) -> None:
        """Iterations to a training loss of ``LOSS``, by α."""
        seeds = list(range(1, self.scale.sweep_seeds + 1)) * len(SWEEP)
        shares = torch.tensor([alpha for alpha in SWEEP for _ in range(self.scale.sweep_seeds)])
        history: list[torch.Tensor] = []

        def draw() -> Prompts:
            return training_prompts(WORLD, shares, 128, 40, self.generator)

        def watch(step: int, parameters: Tensors) -> None:
            if step % 5 == 0:
                history.append(squared_error(parameters, draw()).detach())

        train(initial_parameters(WORLD, DELTA, seeds), draw, SWEEP_STEPS, LR, watch)
        first = 5 * first_below(torch.stack(history), LOSS).view(len(SWEEP), -1).numpy().astype(float)
        first[first < 0] = np.nan
        mean = np.nanmean(first, axis=1)
        slope, factor = power_law(SWEEP, mean)
        self.results["scaling"] = {"alpha": SWEEP, "iterations": first.tolist(), "slope": slope}
        with figure(self.out_dir / "scaling.png", 1, 1) as (axes,):
            axes.errorbar(SWEEP, mean, np.nanstd(first, axis=1), fmt="o", label="measured")
            axes.plot(SWEEP, factor * np.array(SWEEP) ** slope, label=f"fit: slope {slope:.2f}")
            for power in (1, 2):
                axes.plot(
                    SWEEP, mean[-1] * (np.array(SWEEP) / SWEEP[-1]) ** -power, ":", label=f"theory's term α^-{power}"
                )
            axes.set(xlabel="α", ylabel="iterations to loss 0.02", xscale="log", yscale="log")
            axes.legend()


def misleading_matrices(patterns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's worked example in blocks of two patterns: from an even start, the right final label is rarer."""
    first, second = torch.tensor([[0.6, 0.4], [0.4, 0.6]]), torch.tensor([[0.4, 0.6], [0.8, 0.2]])
    blocks = patterns // 2
    return torch.block_diag(*[first] * blocks), torch.block_diag(*[second] * blocks)


def run_cot(out_dir: Path, full: bool) -> dict[str, Any]:
    """Runs the suite, or reads an earlier run's results; ``full`` uses more seeds and queries."""
    scale = FULL if full else Scale()
    return run_once(out_dir, scale, "", Suite(out_dir, scale).run)
