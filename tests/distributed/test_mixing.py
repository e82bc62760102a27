"""Mixing matrices."""

from __future__ import annotations

import pytest
import torch

from asrkit.distributed.mixing import global_average, random_neighbour, random_ring, ring, ring_eigenvalues


@pytest.mark.parametrize("n", [4, 5, 8])
def test_rows_and_columns_sum_to_one(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    for mixing in (global_average(n), ring(n), random_ring(n, generator), random_neighbour(n, generator)):
        assert mixing.shape == (n, n)
        assert (mixing >= 0).all()
        for axis in (0, 1):
            assert torch.allclose(mixing.sum(axis), torch.ones(n, dtype=torch.float64), atol=1e-12, rtol=0)


def test_ring_eigenvalues() -> None:
    expected = torch.tensor([1, 0.805, 0.805, 1 / 3, 1 / 3, -0.138, -0.138, -1 / 3], dtype=torch.float64)
    assert torch.allclose(ring_eigenvalues(8).sort(descending=True).values, expected, atol=5e-4)
    measured = torch.linalg.eigvalsh(ring(8)).sort(descending=True).values
    assert torch.allclose(measured, ring_eigenvalues(8).sort(descending=True).values, atol=1e-12)


@pytest.mark.parametrize(("draw", "factor"), [(random_neighbour, (8 / 2 - 1) / 7), (random_ring, (8 / 3 - 1) / 7)])
def test_contraction_of_random_mixing(draw, factor) -> None:  # type: ignore[no-untyped-def]
    """The mean square of a disagreement shrinks by (n/2 - 1)/(n - 1) and (n/3 - 1)/(n - 1) a step."""
    generator = torch.Generator().manual_seed(0)
    away = torch.randn(8, dtype=torch.float64, generator=generator)
    away -= away.mean()
    squares = [(draw(8, generator) @ away).square().sum() for _ in range(4000)]
    assert (torch.stack(squares).mean() / away.square().sum()).item() == pytest.approx(factor, rel=0.03)


def test_a_ring_needs_three() -> None:
    with pytest.raises(ValueError, match="three learners"):
        ring(2)
