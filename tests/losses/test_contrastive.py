from __future__ import annotations

import math

import pytest
import torch

from asrkit.losses.contrastive import info_nce


def test_random_embeddings_cost_ln_n() -> None:
    torch.manual_seed(0)
    losses = info_nce(torch.randn(256, 4000), torch.randn(256, 4000))
    assert losses.shape == (256,)
    assert losses.mean().item() == pytest.approx(math.log(256), abs=0.02)


def test_a_perfect_match_among_orthogonal_negatives() -> None:
    expected = math.log(1 + 9 * math.exp(-10))
    assert info_nce(3 * torch.eye(10), torch.eye(10)).tolist() == pytest.approx([expected] * 10, rel=1e-3)


def test_gradients() -> None:
    torch.manual_seed(0)
    queries, keys = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def loss(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return info_nce(q, k, 0.5)

    assert torch.autograd.gradcheck(loss, (queries, keys))
