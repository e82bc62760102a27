"""The exception for problems that the user can fix, and text that is safe to print."""

from __future__ import annotations


def shown(text: str) -> str:
    """Text for a message, with unprintable characters and terminal controls escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)


class UserError(Exception):
    """Bad input, described in one line: what is wrong, where, and what to do. The command exits with code 2."""

    def __str__(self) -> str:
        return "\n".join(map(shown, super().__str__().split("\n")))
