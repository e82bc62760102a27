"""NIST's trn format as sclite reads it: ``words (speaker-utterance)``, one utterance per line.

Lines that begin with ``;;`` are comments. The key is the content of the last parentheses; its speaker is the
part before the first ``-`` or ``_``. ``{ uh / um / @ }`` in a reference are alternatives; ``@`` is the empty one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from asrkit.errors import UserError, shown
from asrkit.files import utf8_lines, write_text
from asrkit.scoring.alignment import cost
from asrkit.text.normalize import canonical

_LINE = re.compile(r"(.*)\(([^()\s]+)\)\s*$")
MOST_COMBINATIONS = 256
"""Up to this number all combinations of a reference's alternatives are tried; beyond it they are chosen one by one."""


SUBSETS = "subsets.json"
"""File next to ``ref.trn`` with each utterance's subset, by key."""


def trn_key(speaker: str, utterance_id: str) -> str:
    """The key of an utterance. sclite takes the part before the first ``-`` or ``_`` as the speaker.

    Spaces and parentheses, which the format cannot express, become periods.
    """
    speaker, utterance_id = re.sub(r"[-_()\s]+", ".", speaker), re.sub(r"[()\s]+", ".", utterance_id)
    return canonical(f"{speaker}-{utterance_id}")


def trn_line(text: str, speaker: str, utterance_id: str) -> str:
    """One line; see :func:`trn_key`."""
    return f"{canonical(text)} ({trn_key(speaker, utterance_id)})".lstrip()


def write_trn(path: Path, lines: Iterable[tuple[str, str, str]]) -> None:
    """Writes (text, speaker, utterance id) lines sorted by id."""
    rows = sorted(lines, key=lambda line: line[2])
    write_text(path, "".join(trn_line(*row) + "\n" for row in rows))


def read_trn(path: Path, case_sensitive: bool = False) -> dict[str, tuple[str, str]]:
    """(speaker, text) by key, the text in canonical form and, unless case counts, in lower case.

    Raises:
        UserError: the file is missing, not UTF-8 or empty, or has a malformed line or a duplicate key.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; asrkit decode writes ref.trn and hyp.trn")
    utterances: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(utf8_lines(path), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        match = _LINE.match(line)
        if not match:
            raise UserError(f"{path}:{number}: expected 'words (speaker-utterance)', found '{shown(line[:80])}'")
        key, text = canonical(match[2]), canonical(match[1])
        if key in utterances:
            raise UserError(f"{path}:{number}: utterance '{shown(key)}' comes twice")
        speaker, separator, _ = re.split(r"([-_])", key, maxsplit=1) if re.search(r"[-_]", key) else (key, "", "")
        utterances[key] = (speaker if separator else "unknown", text if case_sensitive else text.lower())
    if not utterances:
        raise UserError(f"{path} holds no utterances; a decoding that wrote nothing has no error rate")
    return utterances


def choose_alternatives(reference: str, hypothesis: Sequence[str]) -> list[str]:
    """The words of a reference, with the alternatives nearest to a hypothesis.

    Raises:
        UserError: unmatched braces.
    """
    parts = _parts(reference.split())
    if all(len(options) == 1 for options in parts):
        return [word for options in parts for word in options[0]]
    number = 1
    for options in parts:
        number *= len(options)
    if number <= MOST_COMBINATIONS:
        return min(map(_joined, itertools.product(*parts)), key=lambda words: cost(words, hypothesis))
    chosen = [options[0] for options in parts]
    for n, options in enumerate(parts):
        if len(options) > 1:
            candidates = [_joined([*chosen[:n], option, *chosen[n + 1 :]]) for option in options]
            chosen[n] = options[min(range(len(options)), key=lambda i: cost(candidates[i], hypothesis))]
    return _joined(chosen)


def _joined(parts: Iterable[Sequence[str]]) -> list[str]:
    return [word for part in parts for word in part]


def _parts(words: Sequence[str]) -> list[list[list[str]]]:
    """For each word, or each group in braces, the ways to say it."""
    parts: list[list[list[str]]] = []
    group: list[list[str]] | None = None
    for word in words:
        if (word == "{") == (group is not None) and word in "{}":
            raise UserError(f"the reference '{shown(' '.join(words)[:80])}' has braces that do not match")
        if word == "{":
            group = [[]]
        elif word == "}" and group is not None:
            parts.append(group)
            group = None
        elif group is None:
            parts.append([[word]])
        elif word == "/":
            group.append([])
        elif word != "@":
            group[-1].append(word)
    if group is not None:
        raise UserError(f"the reference '{shown(' '.join(words)[:80])}' has braces that do not match")
    return parts
