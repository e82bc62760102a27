"""Sequences whose items are built on demand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence with a length and a way to build each item."""

    @abstractmethod
    def item(self, number: int) -> Item:
        """The item with a number from 0 to the length - 1."""

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | list[Item]:
        if isinstance(number, slice):
            return [self.item(n) for n in range(len(self))[number]]
        if not 0 <= number < len(self):
            raise IndexError(number)  # ends an iteration
        return self.item(number)
