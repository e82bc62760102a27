"""Reading curves: when they pass a threshold, and fits of measured laws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def power_law(x: Sequence[float], y: np.ndarray) -> tuple[float, float]:
    """Exponent and factor of y = factor · x^exponent by least squares on the logarithms.

    Values of y that are not finite are excluded; those below 1, such as counts of 0, count as 1.

    Raises:
        ValueError: fewer than two values are left.
    """
    usable = np.isfinite(y)
    if usable.sum() < 2:
        raise ValueError(f"a power law needs two points, there are {int(usable.sum())}")
    slope, shift = np.polyfit(np.log(np.asarray(x)[usable]), np.log(np.maximum(y[usable], 1.0)), 1)
    return float(slope), float(np.exp(shift))


def first_below(history: torch.Tensor, threshold: float) -> torch.Tensor:
    """(steps, S) losses to the first step (S,) at which each run is below the threshold; -1 for never."""
    below = history < threshold
    return torch.where(below.any(0), below.float().argmax(0), -1)
