"""Training with several learners by epoch, from the lines of ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asrkit.figures import figure

KEY = "learners"
"""Key in epoch lines."""
NOISE = {
    "noise": "noise Δ",
    "noise_of_batches": "Δ_S of mini-batches",
    "noise_of_spread": "Δ_2 of the weights' spread",
}
"""Titles by key of an epoch's line, if noise was measured."""


def learners_table(metrics: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of the first and last epoch: weight spread, effective learning rate, noise and its parts (if
    measured), staleness, mixing's share of the time, and the fewest and most updates of a learner."""
    lines = [
        "| epoch | weight spread σ_w² | α_e / α | noise Δ | Δ_S | Δ_2 | staleness | mixing | updates of a learner |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in (metrics[0], metrics[-1]):
        values, updates = line[KEY], list(line[KEY].get("updates", {0: line["updates"]}).values())
        lines.append(
            f"| {line['epoch']} | {values['weight_spread']:.3g} | {_numbers(values)} | "
            f"{values.get('staleness', 0.0):.2f} | {values['mixing_s'] / line['seconds']:.1%} | "
            f"{min(updates)} to {max(updates)} |"
        )
    return "\n".join(lines)


def _numbers(values: dict[str, Any]) -> str:
    return " | ".join(f"{values[name]:.3g}" if name in values else "-" for name in ("effective_lr", *NOISE))


def plot_learners(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Weight spread and noise, effective learning rate, staleness and updates of each learner by epoch."""
    epochs = [line["epoch"] for line in metrics]
    watched = [line for line in metrics if NOISE.keys() <= line[KEY].keys()]
    with figure(path, 1, 4 if watched else 3) as (spread, staleness, updates, *more):
        spread.plot(epochs, [line[KEY]["weight_spread"] for line in metrics], ".-", label="weight spread σ_w²")
        spread.set(yscale="log")
        curves = [(spread, name, title) for name, title in NOISE.items()]
        for axes, name, title in [*curves, *((axes, "effective_lr", "α_e / α") for axes in more)]:
            if watched:
                axes.plot([line["epoch"] for line in watched], [line[KEY][name] for line in watched], ".-", label=title)
            axes.legend()
        for name in ("staleness", "most_stale"):
            staleness.plot(epochs, [line[KEY].get(name, 0.0) for line in metrics], ".-", label=name.replace("_", " "))
        staleness.set_title("updates of others meanwhile")
        staleness.legend()
        for number in range(max(len(line[KEY].get("updates", {})) for line in metrics)):
            counts = [line[KEY].get("updates", {}).get(str(number), 0) for line in metrics]
            updates.plot(epochs, counts, ".-", label=f"learner {number}")
        updates.set_title("updates of each")
        for axes in (spread, staleness, updates, *more):
            axes.set_xlabel("epoch")
