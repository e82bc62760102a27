"""Per-corpus transcript rules."""

from __future__ import annotations

import re

_SPHINX_MARKS = re.compile(r"</?s>|<sil>|\+\+\w+\+\+|\(\d+\)")


def normalize_an4(text: str) -> str:
    """AN4 (Sphinx) transcript to words: sentence marks, fillers and pronunciation numbers removed."""
    return " ".join(_SPHINX_MARKS.sub(" ", text).upper().split())


def normalize_plain(text: str) -> str:
    """A user's own transcripts: single spaces, nothing else touched."""
    return " ".join(text.split())
