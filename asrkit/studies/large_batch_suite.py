"""Which strategy learns with which batch and learning rate: numbers, figures and claims."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.console import progress_bar
from asrkit.errors import UserError
from asrkit.figures import figure
from asrkit.files import write_text
from asrkit.studies.cifar10 import read_cifar10
from asrkit.studies.claims import Claim, results_page, verdict
from asrkit.studies.large_batches import STRATEGIES, Examples, Run, frame_network, image_network, parameters_of, train
from asrkit.studies.suite import run_once
from asrkit.tensor_files import read_tensors

MARGIN = 0.3
"""A run has learned if its loss is lower by this than that of the best guess without looking at the input."""
FRAMES = "frames.safetensors"
"""Written by ``asrkit align --frames``."""
MAP, CURVES = "map.png", "curves.png"


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    examples: int = 8192
    learners: int = 16
    batch_sizes: tuple[int, ...] = (512, 2048)
    base_lr: float = 0.05
    """At a batch of 512; larger ones follow the linear rule."""
    factors: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    epochs: int = 12
    warmup_epochs: float = 2.0
    weight_noise: float = 0.01
    seeds: int = 3


FULL = Scale(examples=50_000, batch_sizes=(1024, 2048, 4096, 8192), epochs=60, warmup_epochs=10.0)


@dataclass(frozen=True)
class Problem:
    """What is classified, and by what."""

    name: str
    examples: Examples
    network: Callable[[], nn.Module]

    @property
    def guess(self) -> float:
        """Entropy of the classes, in nats: the loss of the best guess without looking at the input."""
        share = torch.bincount(self.examples.y).double() / len(self.examples.y)
        return float(-(share * share.clamp(min=1e-300).log()).sum())


def read_problem(data_dir: Path) -> Problem:
    """The labelled frames of a folder, or CIFAR-10.

    Raises:
        UserError: neither is there, or a file is damaged.
    """
    if (path := data_dir / FRAMES).is_file():
        tensors = read_tensors(path, "write it again with asrkit align --frames")
        frames = Examples(tensors["x"].float(), tensors["y"])
        return Problem("frames of speech", frames, partial(frame_network, frames.x.shape[1], int(frames.y.max()) + 1))
    images, _ = read_cifar10(data_dir)
    return Problem("images of CIFAR-10", Examples(images.images, images.labels), image_network)


def run_large_batches(out_dir: Path, data_dir: Path, full: bool) -> None:
    """Runs the grid, or reads an earlier run's results, and writes figures and RESULTS.md."""
    scale = FULL if full else Scale()
    problem = read_problem(data_dir)
    if full:
        scale = replace(scale, examples=min(scale.examples, len(problem.examples.y)))
    if len(problem.examples.y) < scale.examples:
        raise UserError(f"{data_dir} has {len(problem.examples.y)} examples; {scale.examples} are needed")
    results = run_once(out_dir, scale, str(data_dir), lambda: {"runs": _grid(scale, problem)})
    runs: list[dict[str, Any]] = results["runs"]
    learned = problem.guess - MARGIN
    for run in runs:
        run["learned"] = run["final_loss"] < learned
    _draw_map(out_dir / MAP, runs, scale, problem.guess)
    _draw_curves(out_dir / CURVES, runs, scale)
    source = (
        "Zhang et al. 2021 (arXiv 2112.01433). Written by `egs/large_batches/run.sh`: "
        f"{scale.learners} learners, {scale.examples} {problem.name}, {parameters_of(problem.network):,} parameters, "
        f"plain SGD, {scale.epochs} epochs with a linear warm-up of {scale.warmup_epochs:g}, {scale.seeds} seeds. "
        f"A run has learned if the mean model's loss is below {learned:.3f}; guessing by the classes' frequencies has "
        f"{problem.guess:.3f}."
    )
    write_text(
        out_dir / "RESULTS.md",
        results_page("Large batches with many learners", source, _claims(runs), _tables(runs, scale)),
    )


def _grid(scale: Scale, problem: Problem) -> list[dict[str, Any]]:
    examples = problem.examples.part(0, scale.examples)
    cells = list(itertools.product(range(scale.seeds), scale.batch_sizes, scale.factors, STRATEGIES))
    runs = []
    with progress_bar("large batches", len(cells)) as bar:
        for seed, batch_size, factor, strategy in cells:
            lr = scale.base_lr * factor * batch_size / 512
            run = Run(
                strategy,
                batch_size,
                lr,
                seed + 1,
                scale.learners,
                scale.epochs,
                scale.warmup_epochs,
                scale.weight_noise,
            )
            trace = train(run, examples, problem.network, watch=seed == 0)
            runs.append({**asdict(run), "factor": factor, **asdict(trace)})
            bar.advance()
    return runs


def _cell(runs: Sequence[dict[str, Any]], strategy: str, batch_size: int, factor: float) -> list[dict[str, Any]]:
    wanted = (strategy, batch_size, factor)
    return [run for run in runs if (run["strategy"], run["batch_size"], run["factor"]) == wanted]


def _learned(runs: Sequence[dict[str, Any]]) -> int:
    return sum(run["learned"] for run in runs)


def _tables(runs: Sequence[dict[str, Any]], scale: Scale) -> list[str]:
    """For each batch size: runs that learned, and the median final loss."""
    lines = []
    for batch_size in scale.batch_sizes:
        rates = [scale.base_lr * factor * batch_size / 512 for factor in scale.factors]
        lines += [
            f"Batch of {batch_size}, {batch_size // scale.learners} for each learner: runs that learned, median loss",
            "",
            "| strategy | " + " | ".join(f"lr {rate:g}" for rate in rates) + " |",
            "|---|" + "---|" * len(rates),
        ]
        for strategy in STRATEGIES:
            row = []
            for factor in scale.factors:
                cell = _cell(runs, strategy, batch_size, factor)
                median = statistics.median(run["final_loss"] for run in cell)
                row.append(f"{_learned(cell)}/{len(cell)}, {median:.3f}")
            lines.append(f"| {strategy} | " + " | ".join(row) + " |")
        lines.append("")
    return lines


def _claims(runs: Sequence[dict[str, Any]]) -> list[Claim]:
    watched = [run for run in runs if run["strategy"] == "DPSGD" and len(run["spread"]) > 3 and run["learned"]]
    quarters = [(_mean_of(run["spread"], 0, 1), _mean_of(run["spread"], 3, 4)) for run in watched]
    fell = sum(late < early for early, late in quarters)
    pairs = [
        (statistics.mean(run["effective_lr"]), statistics.mean(other["effective_lr"]))
        for run in watched
        for other in _cell(runs, "SSGD", run["batch_size"], run["factor"])
        if other["seed"] == run["seed"] and other["learned"]
    ]
    lower = sum(dpsgd < ssgd for dpsgd, ssgd in pairs)
    return [
        _more_often("DPSGD learns where SSGD does not", runs, "DPSGD", "SSGD"),
        _more_often(
            "Noise that does not depend on the landscape does not do the same", runs, "DPSGD", "SSGD with noise"
        ),
        _more_often("The average of all, delay-by-one, tolerates large batches too", runs, "D1D", "SSGD"),
        Claim(
            "Weights spread where the loss is rough, and draw together later",
            f"σ_w² is smaller in the last quarter than in the first in {fell} of {len(quarters)} runs: "
            f"{', '.join(f'{early:.2g} to {late:.2g}' for early, late in quarters)}",
            _by_sign(fell, len(quarters) - fell),
            CURVES,
        ),
        Claim(
            "The effective learning rate of DPSGD lowers itself, that of SSGD does not",
            f"mean α_e / α is lower with DPSGD in {lower} of {len(pairs)} pairs of runs: "
            f"{', '.join(f'{dpsgd:.2f} and {ssgd:.2f}' for dpsgd, ssgd in pairs)}",
            _by_sign(lower, len(pairs) - lower),
            CURVES,
        ),
    ]


def _mean_of(values: Sequence[float], first: int, last: int) -> float:
    """Mean from the ``first`` to the ``last`` quarter."""
    return statistics.mean(values[len(values) * first // 4 : len(values) * last // 4])


def _by_sign(wins: int, losses: int) -> str:
    """The verdict of a sign test at 5 %."""
    if sign_test(wins, losses) >= 0.05:
        return "undecided"
    return verdict(wins > losses)


def _more_often(words: str, runs: Sequence[dict[str, Any]], better: str, other: str) -> Claim:
    """Whether one strategy learns in more runs than another: a sign test over runs of the same seed, batch and rate."""
    key = "seed", "batch_size", "factor"
    learned, others = (
        {tuple(run[k] for k in key) for run in runs if run["strategy"] == name and run["learned"]}
        for name in (better, other)
    )
    only_better, only_other = len(learned - others), len(others - learned)
    return Claim(
        words,
        f"{better} {len(learned)}, {other} {len(others)} of {len(runs) // len(STRATEGIES)} runs; "
        f"only {better} in {only_better}, only {other} in {only_other} "
        f"(sign test p = {sign_test(only_better, only_other):.2g})",
        _by_sign(only_better, only_other),
        MAP,
    )


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of these wins and losses if both were equally likely."""
    n, least = wins + losses, min(wins, losses)
    return min(1.0, float(2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n))


def _draw_map(path: Path, runs: Sequence[dict[str, Any]], scale: Scale, guess: float) -> None:
    with figure(path, 1, len(scale.batch_sizes)) as panels:
        for axes, batch_size in zip(panels, scale.batch_sizes, strict=True):
            for strategy in STRATEGIES:
                medians = [
                    min(4.0, statistics.median(run["final_loss"] for run in _cell(runs, strategy, batch_size, factor)))
                    for factor in scale.factors
                ]
                axes.plot([scale.base_lr * f * batch_size / 512 for f in scale.factors], medians, ".-", label=strategy)
            axes.axhline(guess, color="gray", linestyle=":", label="guess")
            axes.set(
                xscale="log", xlabel="learning rate", ylabel="median final loss (4: more)", title=f"batch {batch_size}"
            )
        panels[0].legend()


def _draw_curves(path: Path, runs: Sequence[dict[str, Any]], scale: Scale) -> None:
    names = ("losses", "effective_lr", "noise", "spread")
    titles = ("loss", "effective learning rate, α_e / α", "noise strength Δ", "weight spread σ_w²")
    with figure(path, len(scale.batch_sizes), len(names)) as panels:
        for row, batch_size in enumerate(scale.batch_sizes):
            for column, (name, title) in enumerate(zip(names, titles, strict=True)):
                axes = panels[row * len(names) + column]
                for strategy in ("SSGD", "SSGD with noise", "DPSGD", "D1D"):
                    cell = [run for run in _cell(runs, strategy, batch_size, 2.0) if run["steps"]]
                    for run in cell:
                        axes.plot(run["steps"], run[name], label=strategy)
                        if name == "noise":
                            axes.plot(run["steps"], run["noise_of_batches"], ":", color=axes.lines[-1].get_color())
                axes.set(title=f"{title}, batch {batch_size}", xlabel="step")
                if name in ("noise", "spread"):
                    axes.set_yscale("log")
        panels[0].legend()
