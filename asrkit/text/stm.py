"""NIST's stm format: the segments of recordings with their reference transcripts.

``recording channel speaker begin end [<label,…>] words``, one segment per line; ``;;`` begins a comment. In the words,
``(uh)`` is optional, ``{ a / b }`` are alternatives, and ``@`` is the empty one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from asrkit.errors import UserError, shown
from asrkit.files import utf8_lines

IGNORED = re.compile(r"ignore_time_segment_in_scoring|inter_segment_gap", re.IGNORECASE)
"""Marks segments that are not scored."""


@dataclass(frozen=True)
class StmSegment:
    """A line of an stm file."""

    recording: str
    channel: str
    """``A`` or ``B``, or ``1`` or ``2``."""
    speaker: str
    start_s: float
    end_s: float
    labels: tuple[str, ...]
    """Categories, such as ``o`` and ``swb1``, in lower case."""
    text: str

    @property
    def is_scored(self) -> bool:
        """Whether the segment counts."""
        return not IGNORED.search(f"{self.speaker} {self.text}")

    @property
    def channel_number(self) -> int:
        """From 0."""
        return 1 if self.channel.upper() in ("B", "2") else 0


def read_stm(path: Path) -> list[StmSegment]:
    """The segments of a file, in its order.

    Raises:
        UserError: not UTF-8, or a malformed line, with its number.
    """
    return [
        _segment(line, f"{path}:{number}")
        for number, line in enumerate(utf8_lines(path), 1)
        if line.strip() and not line.startswith(";;")
    ]


def _segment(line: str, where: str) -> StmSegment:
    words = line.split(maxsplit=5)
    try:
        start_s, end_s = float(words[3]), float(words[4])
    except (IndexError, ValueError):
        start_s = end_s = math.nan
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        raise UserError(f"{where}: expected 'recording channel speaker begin end words', found '{shown(line[:80])}'")
    rest = words[5] if len(words) > 5 else ""
    labels: tuple[str, ...] = ()
    if match := re.match(r"<([^<>]*)>\s*", rest):
        labels, rest = tuple(part.strip().lower() for part in match[1].split(",")), rest[match.end() :]
    return StmSegment(words[0], words[1], words[2], start_s, end_s, labels, rest.strip())
