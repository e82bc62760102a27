from __future__ import annotations

import pytest

from asrkit.lazy import LazySequence


class Squares(LazySequence[int]):
    """The first five."""

    def __len__(self) -> int:
        return 5

    def item(self, number: int) -> int:
        return number**2


def test_items_slices_and_iteration() -> None:
    squares = Squares()
    assert (
        list(squares) == [0, 1, 4, 9, 16] and squares[3] == 9 and squares[1:4:2] == [1, 9] and squares[-2:] == [9, 16]
    )
    with pytest.raises(IndexError):
        squares[5]
