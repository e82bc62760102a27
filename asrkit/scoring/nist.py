"""NIST's trn format: ``words (speaker-utterance)``, one utterance a line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from asrkit.errors import UserError
from asrkit.files import utf8_lines, write_text

_LINE = re.compile(r"(.*)\(([^()\s]+)\)\s*$")


def trn_line(text: str, speaker: str, utterance_id: str) -> str:
    """One line. sclite takes what stands before the first ``-`` or ``_`` of the id for the speaker.

    What the format has no way to write, spaces and parentheses in names, becomes a point.
    """
    speaker, utterance_id = re.sub(r"[-_()\s]+", ".", speaker), re.sub(r"[()\s]+", ".", utterance_id)
    return f"{' '.join(text.split())} ({speaker}-{utterance_id})".lstrip()


def write_trn(path: Path, lines: Iterable[tuple[str, str, str]]) -> None:
    """Writes (text, speaker, utterance id) lines in the order of their ids."""
    rows = sorted(lines, key=lambda line: line[2])
    write_text(path, "".join(trn_line(*row) + "\n" for row in rows))


def read_trn(path: Path) -> dict[str, tuple[str, str]]:
    """Utterance id to (speaker, text).

    Raises:
        UserError: no such file, not UTF-8, a line of another form, or an id that comes twice.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; asrkit decode writes ref.trn and hyp.trn")
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(utf8_lines(path), 1):
        if not line.strip():
            continue
        match = _LINE.match(line)
        if not match:
            raise UserError(f"{path}:{number}: expected 'words (speaker-utterance)', found '{line}'")
        speaker, _, id = match[2].partition("-")
        if not id:
            speaker, id = "unknown", speaker
        if id in found:
            raise UserError(f"{path}:{number}: utterance '{id}' comes twice")
        found[id] = (speaker, match[1].strip())
    return found
