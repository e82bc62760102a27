"""Reading lists of ids and values (``text``, ``utt2spk``, ``split``), and finding what they lack."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from asrkit.corpora.utterances import Problem
from asrkit.errors import UserError, shown
from asrkit.features.audio_files import AUDIO_SUFFIXES
from asrkit.files import utf8_lines


def read_pairs(path: Path, with_spaces: Collection[str] = ()) -> dict[str, str]:
    """Ids and values of a list: an id, white space and a value on each non-empty line.

    Args:
        path: UTF-8, with or without a byte order mark, with any line endings.
        with_spaces: ids that contain spaces; an id before a tab may contain spaces too.

    Raises:
        UserError: not UTF-8, or an id that is invalid or listed twice.
    """
    pairs: dict[str, str] = {}
    spaced = set(with_spaces)
    for number, line in enumerate(utf8_lines(path), 1):
        line = line.strip()
        if not line:
            continue
        id, value = _cut(line, spaced)
        id = clean_id(id, f"{path}:{number}")
        if id in pairs:
            raise UserError(f"{path}:{number}: '{id}' is listed twice")
        pairs[id] = value.strip()
    return pairs


def _cut(line: str, with_spaces: Collection[str]) -> tuple[str, str]:
    head, tab, tail = line.partition("\t")
    if tab:
        return head.strip(), tail
    if with_spaces:
        words = unicodedata.normalize("NFC", line).split(" ")
        for number in range(len(words), 1, -1):
            if (id := " ".join(words[:number])) in with_spaces:
                return id, " ".join(words[number:])
    id, _, value = line.partition(" ") if " " in line else (*line.split(maxsplit=1), "", "")[:3]
    return id, value


def clean_id(id: str, where: str) -> str:
    """An id in its canonical form, NFC.

    Raises:
        UserError: it is empty, or contains unprintable characters.
    """
    id = unicodedata.normalize("NFC", id)
    if not id or not all(c.isprintable() for c in id):
        raise UserError(f"{where}: '{shown(id)}' cannot be an utterance's id: it is empty or holds control characters")
    return id


def match(
    pairs: Mapping[str, str], ids: Iterable[str], name: str, notes: list[str]
) -> tuple[dict[str, str], list[Problem]]:
    """Values by utterance id, and problems for listed ids without an utterance.

    A folder or audio suffix in an id is ignored if the rest matches.

    Args:
        pairs: from :func:`read_pairs`.
        ids: of the utterances.
        name: of the list, for messages.
        notes: gets a line if ids were changed.
    """
    known, values, problems, changed = set(ids), {}, [], []
    for listed, value in pairs.items():
        id = listed if listed in known else next((s for s in _shorter(listed) if s in known), listed)
        if id not in known:
            problems.append(Problem(listed, f"it is in {name}, but there is no such utterance"))
        elif id in values:
            problems.append(Problem(id, f"{name} has it twice: once as '{listed}'"))
        else:
            values[id] = value
            changed += [listed] if id != listed else []
    if changed:
        notes.append(
            f"{name}: {len(changed)} ids are written with a folder or a suffix, such as '{changed[0]}'; both are "
            "ignored"
        )
    return values, problems


def missing_from(values: Mapping[str, str], ids: Iterable[str], name: str) -> list[Problem]:
    """A problem for each id that a list lacks."""
    return [Problem(id, f"it is not in {name}") for id in ids if id not in values]


def _shorter(id: str) -> list[str]:
    """An id without its suffix, its folders, and both."""
    path = PurePosixPath(id.replace("\\", "/"))
    bare = path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES and path.stem else path
    return [str(bare), path.name, bare.name]
