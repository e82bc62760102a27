"""Figures as files: panels, and lines with bands over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from asrkit.files import atomic_path


@contextmanager
def figure(path: Path, rows: int, columns: int) -> Iterator[list[Any]]:
    """Axes of ``rows`` × ``columns`` panels, row by row; the figure is written when the block ends."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(5.2 * columns, 3.8 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False)
    yield list(axes.flat)
    with atomic_path(path) as temporary:
        fig.savefig(temporary, dpi=120)


def band(axes: Any, x: Sequence[float], values: np.ndarray, label: str) -> None:
    """Mean over seeds as a line with a band of one standard deviation; values (len(x), seeds)."""
    mean, deviation = values.mean(axis=1), values.std(axis=1)
    (line,) = axes.plot(x, mean, ".-", label=label)
    axes.fill_between(x, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, linewidth=0)
