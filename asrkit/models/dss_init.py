"""Initial eigenvalues of a diagonal state space (Saon et al. 2023, arXiv 2302.14120, table 1)."""

from __future__ import annotations

import math

import torch

INITS = ("linear", "hippo", "exp_random", "s4d_inv", "s4d_lin")


def initial_lambda(init: str, state_dim: int) -> torch.Tensor:
    """Complex (N,) eigenvalues, all with a negative real part.

    Args:
        init: ``linear``, -1 + i n, the paper's best; ``hippo``, -1/2 plus the N eigenvalues with positive
            imaginary part of the 2N × 2N skew-HiPPO matrix; ``exp_random``, -e^a + i e^b with a, b uniform in
            [-1, 1]; ``s4d_lin``, -1/2 + i π n; ``s4d_inv``, -1/2 + i (M / π) (M / (2 n + 1) - 1) with M = 2 N,
            so that the N eigenvalues are those with positive imaginary part.
        state_dim: N.
    """
    n = torch.arange(state_dim, dtype=torch.float64)
    half = torch.full_like(n, 0.5)
    if init == "linear":
        eigenvalues = torch.complex(-torch.ones_like(n), n)
    elif init == "hippo":
        eigenvalues = torch.complex(-half, skew_hippo_frequencies(state_dim))
    elif init == "exp_random":
        eigenvalues = torch.complex(
            -torch.empty_like(n).uniform_(-1, 1).exp(), torch.empty_like(n).uniform_(-1, 1).exp()
        )
    elif init == "s4d_inv":
        size = 2 * state_dim
        eigenvalues = torch.complex(-half, size / math.pi * (size / (2 * n + 1) - 1))
    elif init == "s4d_lin":
        eigenvalues = torch.complex(-half, math.pi * n)
    else:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init}")
    return eigenvalues.to(torch.complex64)


def skew_hippo_frequencies(number: int) -> torch.Tensor:
    """The positive imaginary parts of the skew-HiPPO matrix of size 2 · number, largest first, (number,) float64.

    Its entries are ± sqrt((2 i + 1)(2 j + 1)) / 2 off the diagonal (Gupta et al. 2022, arXiv 2203.14343).
    """
    root = torch.sqrt(2 * torch.arange(2 * number, dtype=torch.float64) + 1)
    upper = torch.triu(root[:, None] * root[None, :] / 2, diagonal=1)
    frequencies = torch.linalg.eigvals(upper - upper.t()).imag
    result: torch.Tensor = frequencies.sort(descending=True).values[:number]
    return result
