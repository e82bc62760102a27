"""Bilevel training (BL-JUST) by epoch, from the lines of ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asrkit.figures import figure

KEY = "bl_just"
"""Key in epoch lines."""


def bilevel_table(metrics: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of f, g, the gap g − v and the norms of both gradients in θ, in the first and last epoch.

    f is that of a label. The minimum v of g is unknown; the lowest g at an epoch's end replaces it.
    """
    lines = ["| epoch | f | g | gap g − v | ‖∇f‖ | ‖∇g‖ |", "|---|---|---|---|---|---|"]
    lowest = min(line[KEY]["g"] for line in metrics)
    for line in (metrics[0], metrics[-1]):
        values = line[KEY]
        lines.append(
            f"| {line['epoch']} | {values['f']:.3f} | {values['g']:.3f} | {values['g'] - lowest:.3f} | "
            f"{values['gradient_f']:.4g} | {values['gradient_g']:.4g} |"
        )
    return "\n".join(lines)


def plot_bilevel(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """f, the gap of g, both gradients, and dev's error rate by epoch."""
    epochs = [line["epoch"] for line in metrics]
    curves = {name: [line[KEY][name] for line in metrics] for name in ("f", "g", "gradient_f", "gradient_g")}
    lowest = min(curves["g"])
    with figure(path, 2, 2) as (supervised, gap, gradients, dev):
        supervised.plot(epochs, curves["f"], ".-")
        supervised.set_title("f, supervised loss per label")
        gap.plot(epochs, [g - lowest for g in curves["g"]], ".-")
        gap.set_title(f"g − v, gap of the unsupervised loss (v = {lowest:.3f})")
        for name, label in (("gradient_f", "‖∇f‖"), ("gradient_g", "‖∇g‖")):
            gradients.plot(epochs, curves[name], ".-", label=label)
        gradients.set_yscale("log")
        gradients.set_title("Norms of the gradients of θ")
        gradients.legend()
        measure = next((name for name in ("dev_wer", "dev_cer") if name in metrics[0]), "")
        measured = [(line["epoch"], line[measure]) for line in metrics if measure and line[measure] is not None]
        dev.plot([epoch for epoch, _ in measured], [value for _, value in measured], ".-")
        dev.set_title(f"{measure[4:].upper()} on dev, %")
        for axes in (supervised, gap, gradients, dev):
            axes.set_xlabel("epoch")
