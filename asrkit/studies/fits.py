"""Fits of measured laws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def power_law(x: Sequence[float], y: np.ndarray) -> tuple[float, float]:
    """Exponent and factor of y = factor · x^exponent by least squares of the logarithms.

    Values of y that are not finite are left out; those below 1, such as counts of 0, count as 1.

    Raises:
        ValueError: fewer than two values are left.
    """
    usable = np.isfinite(y)
    if usable.sum() < 2:
        raise ValueError(f"a power law needs two points, there are {int(usable.sum())}")
    slope, shift = np.polyfit(np.log(np.asarray(x)[usable]), np.log(np.maximum(y[usable], 1.0)), 1)
    return float(slope), float(np.exp(shift))
