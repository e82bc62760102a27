from __future__ import annotations

import pytest
import torch

from asrkit.models.tanh import tanh_


@pytest.mark.parametrize(
    ("dtype", "error"),
    [(torch.float64, 1e-15), (torch.float32, 2e-7), (torch.bfloat16, 2**-9), (torch.float16, 2**-12)],
)
def test_tanh_in_place(dtype: torch.dtype, error: float) -> None:
    x = torch.tensor([-400.0, -30.0, *torch.linspace(-9, 9, 5001).tolist(), 1e-4, 0.0, 30.0, 400.0], dtype=dtype)
    expected = torch.tanh(x.double())
    part = x[1:-1]  # a view is written to as well
    assert tanh_(part) is part
    assert ((x.double() - expected).abs()[1:-1] <= error).all()
    assert x[0] == -400 and x[-1] == 400
    assert (tanh_(x)[[0, -1]].abs() == 1).all()
