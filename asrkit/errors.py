"""The one exception for what the user can fix."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and what to do. The command exits with code 2."""
