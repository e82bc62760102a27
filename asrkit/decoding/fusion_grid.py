"""WER over a grid of fusion weights, by rescoring n-best lists that were decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from asrkit.decoding.density_ratio import FusionWeights
from asrkit.figures import figure


@dataclass(frozen=True)
class ScoredList:
    """An utterance's hypotheses as (K,) arrays."""

    reference_words: int
    errors: np.ndarray
    """Word errors."""
    am: np.ndarray
    source: np.ndarray
    target: np.ndarray
    """log p by the transducer and the two language models."""
    length: np.ndarray
    """Labels."""

    def __add__(self, other: ScoredList) -> ScoredList:
        """The same utterance with more hypotheses."""
        names = ("errors", "am", "source", "target", "length")
        joined = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in names)
        return ScoredList(self.reference_words, *joined)


@dataclass(frozen=True)
class GridPoint:
    """WER in percent of the best hypotheses under some weights."""

    weights: FusionWeights
    wer: float


def scored_list(
    reference_words: int,
    errors: Sequence[int],
    am: Sequence[float],
    source: Sequence[float],
    target: Sequence[float],
    length: Sequence[int],
) -> ScoredList:
    """An n-best list from its columns."""
    columns = (np.asarray(column, dtype=np.float64) for column in (errors, am, source, target, length))
    return ScoredList(reference_words, *columns)


def fusion_grid(
    lists: Sequence[ScoredList], source: Sequence[float], target: Sequence[float], length: Sequence[float]
) -> list[GridPoint]:
    """WER at every combination of the weights, the lowest first; equal ones by weight, the smallest first."""
    words = max(1, sum(nbest.reference_words for nbest in lists))
    points = []
    for weights in (FusionWeights(*combination) for combination in product(source, target, length)):
        scores = (h.am + weights.bonus(h.source, h.target, h.length) for h in lists)
        errors = sum(h.errors[int(score.argmax())] for h, score in zip(lists, scores, strict=True))
        points.append(GridPoint(weights, 100 * float(errors) / words))
    return sorted(points, key=lambda p: (p.wer, p.weights.source, p.weights.target, abs(p.weights.length)))


def grid_table(points: Sequence[GridPoint]) -> str:
    """WER by source (rows) and target weight (columns), each at its best length weight."""
    sources = sorted({p.weights.source for p in points})
    targets = sorted({p.weights.target for p in points})
    best = _best_over_length(points)
    lines = ["mu \\ lambda " + "".join(f"{lam:>8.2f}" for lam in targets)]
    lines += [f"{mu:>11.2f} " + "".join(f"{best[mu, lam]:>8.2f}" for lam in targets) for mu in sources]
    return "\n".join(lines)


def plot_grid(points: Sequence[GridPoint], path: Path) -> None:
    """The surface of :func:`grid_table` as a plot, its lowest point marked."""
    sources = sorted({p.weights.source for p in points})
    targets = sorted({p.weights.target for p in points})
    best = _best_over_length(points)
    values = np.array([[best[mu, lam] for lam in targets] for mu in sources])
    low = points[0]
    with figure(path, 1, 1) as (axes,):
        image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis_r")
        axes.set_xticks(range(len(targets)), [f"{lam:g}" for lam in targets])
        axes.set_yticks(range(len(sources)), [f"{mu:g}" for mu in sources])
        axes.set_xlabel("weight of the external language model, λ")
        axes.set_ylabel("weight of the source language model, μ")
        axes.plot(targets.index(low.weights.target), sources.index(low.weights.source), "r*", markersize=14)
        axes.set_title(f"n-best rescoring, ρ at its best: {low.wer:.2f} % at ρ = {low.weights.length:g}")
        axes.figure.colorbar(image, label="WER %")


def _best_over_length(points: Sequence[GridPoint]) -> dict[tuple[float, float], float]:
    best: dict[tuple[float, float], float] = {}
    for p in points:
        key = p.weights.source, p.weights.target
        best[key] = min(p.wer, best.get(key, float("inf")))
    return best
