"""Which strategy learns with which batch and learning rate: numbers, figures and claims."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asrkit.console import progress_bar
from asrkit.figures import figure
from asrkit.files import write_text
from asrkit.studies.cifar10 import Images, read_cifar10
from asrkit.studies.claims import Claim, results_page, verdict
from asrkit.studies.large_batches import STRATEGIES, Run, parameters_of, small_network, train
from asrkit.studies.suite import run_once

LEARNED = 2.0
"""Below this loss a run has learned something; ln 10 = 2.303 is a uniform guess."""
MAP, CURVES = "map.png", "curves.png"


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    images: int = 8192
    reference_images: int = 1024
    learners: int = 16
    batch_sizes: tuple[int, ...] = (512, 2048)
    base_lr: float = 0.05
    """At a batch of 512; larger ones follow the linear rule."""
    factors: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    epochs: int = 12
    warmup_epochs: float = 2.0
    weight_noise: float = 0.01
    seeds: int = 3


FULL = Scale(images=50_000 - 1024, batch_sizes=(1024, 2048, 4096, 8192), epochs=60, warmup_epochs=10.0, seeds=5)


def run_large_batches(out_dir: Path, data_dir: Path, full: bool) -> None:
    """Runs the grid, or reads an earlier run's results, and writes figures and RESULTS.md."""
    scale = FULL if full else Scale()
    results = run_once(out_dir, scale, str(data_dir), lambda: {"runs": _grid(scale, data_dir)})
    runs: list[dict[str, Any]] = results["runs"]
    _draw_map(out_dir / MAP, runs, scale)
    _draw_curves(out_dir / CURVES, runs, scale)
    source = (
        "Zhang et al. 2021 (arXiv 2112.01433). Written by `egs/large_batches/run.sh`: "
        f"{scale.learners} learners, {scale.images} images, {parameters_of(small_network):,} parameters, plain SGD, "
        f"{scale.epochs} epochs with a linear warm-up of {scale.warmup_epochs:g}, {scale.seeds} seeds. A run has "
        f"learned if the mean model's loss is below {LEARNED:g}; a uniform guess has {math.log(10):.3f}."
    )
    write_text(
        out_dir / "RESULTS.md",
        results_page("Large batches with many learners", source, _claims(runs, scale), _tables(runs, scale)),
    )


def _grid(scale: Scale, data_dir: Path) -> list[dict[str, Any]]:
    train_images, _ = read_cifar10(data_dir)
    images = train_images.first(scale.images)
    last = slice(scale.images, scale.images + scale.reference_images)
    reference = Images(train_images.images[last], train_images.labels[last])
    cells = list(itertools.product(range(scale.seeds), scale.batch_sizes, scale.factors, STRATEGIES))
    found = []
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
            trace = train(run, images, reference, watch=seed == 0)
            found.append({**asdict(run), "factor": factor, **asdict(trace)})
            bar.advance()
    return found


def _cell(runs: Sequence[dict[str, Any]], strategy: str, batch_size: int, factor: float) -> list[dict[str, Any]]:
    wanted = (strategy, batch_size, factor)
    return [run for run in runs if (run["strategy"], run["batch_size"], run["factor"]) == wanted]


def _learned(runs: Sequence[dict[str, Any]]) -> int:
    return sum(run["final_loss"] < LEARNED for run in runs)


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
            words = []
            for factor in scale.factors:
                cell = _cell(runs, strategy, batch_size, factor)
                median = statistics.median(run["final_loss"] for run in cell)
                words.append(f"{_learned(cell)}/{len(cell)}, {median:.3f}")
            lines.append(f"| {strategy} | " + " | ".join(words) + " |")
        lines.append("")
    return lines


def _claims(runs: Sequence[dict[str, Any]], scale: Scale) -> list[Claim]:
    learned = {strategy: _learned([run for run in runs if run["strategy"] == strategy]) for strategy in STRATEGIES}
    number = len(runs) // len(STRATEGIES)
    where = {"more": 0, "less": 0}
    for batch_size, factor in itertools.product(scale.batch_sizes, scale.factors):
        alone, together = (_learned(_cell(runs, name, batch_size, factor)) for name in ("DPSGD", "SSGD"))
        where["more"] += alone > together
        where["less"] += alone < together
    traces = [run for run in runs if run["strategy"] == "DPSGD" and len(run["spread"]) > 3 and _learned([run])]
    early = [max(run["spread"][: len(run["spread"]) // 2]) for run in traces]
    late = [run["spread"][-1] for run in traces]
    share = [statistics.mean(run["effective_lr"]) for run in traces]
    of_ssgd = [
        statistics.mean(run["effective_lr"])
        for run in runs
        if run["strategy"] == "SSGD" and run["effective_lr"] and _learned([run])
    ]
    cells = f"of {len(scale.batch_sizes) * len(scale.factors)} pairs of batch and rate"
    return [
        Claim(
            "DPSGD learns where SSGD does not",
            f"DPSGD {learned['DPSGD']}, SSGD {learned['SSGD']} of {number} runs; DPSGD in more runs in "
            f"{where['more']}, in fewer in {where['less']} {cells}",
            verdict(where["more"] > 0 and where["less"] == 0, where["more"] > where["less"]),
            MAP,
        ),
        Claim(
            "Noise that does not depend on the landscape does not do the same",
            f"SSGD with noise {learned['SSGD with noise']} of {number} runs",
            verdict(learned["SSGD with noise"] < learned["DPSGD"]),
            MAP,
        ),
        Claim(
            "The average of all, delay-by-one, stands large batches too",
            f"D1D {learned['D1D']} of {number} runs",
            verdict(learned["D1D"] > learned["SSGD"], learned["D1D"] == learned["SSGD"]),
            MAP,
        ),
        Claim(
            "Weights spread where the loss is rough, and draw together later",
            f"σ_w² at most {_listed(early)} in the first half, {_listed(late)} at the end"
            if traces
            else "no run learned",
            verdict(bool(traces) and all(b < a for a, b in zip(early, late, strict=True))),
            CURVES,
        ),
        Claim(
            "The effective learning rate is below the nominal one, that of SSGD is not lowered by itself",
            f"mean α_e / α {_listed(share)} with DPSGD, {_listed(of_ssgd)} with SSGD",
            verdict(bool(share) and bool(of_ssgd) and statistics.mean(share) < statistics.mean(of_ssgd)),
            CURVES,
        ),
    ]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _draw_map(path: Path, runs: Sequence[dict[str, Any]], scale: Scale) -> None:
    with figure(path, 1, len(scale.batch_sizes)) as panels:
        for axes, batch_size in zip(panels, scale.batch_sizes, strict=True):
            for strategy in STRATEGIES:
                medians = [
                    min(4.0, statistics.median(run["final_loss"] for run in _cell(runs, strategy, batch_size, factor)))
                    for factor in scale.factors
                ]
                axes.plot([scale.base_lr * f * batch_size / 512 for f in scale.factors], medians, ".-", label=strategy)
            axes.axhline(math.log(10), color="gray", linestyle=":", label="uniform guess")
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
