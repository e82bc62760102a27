from __future__ import annotations

import numpy as np
import pytest

from asrkit.studies.fits import power_law


def test_a_power_law_is_found_beside_missing_points() -> None:
    x = [0.25, 0.5, 1.0, 2.0]
    slope, factor = power_law(x, np.array([64.0, np.nan, 16.0, 8.0]))
    assert slope == pytest.approx(-1.0) and factor == pytest.approx(16.0)
    with pytest.raises(ValueError, match="two points"):
        power_law(x, np.array([np.nan, np.nan, 3.0, np.nan]))
