"""Finding the files of corpus releases, which people unpack in many ways."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from asrkit.errors import UserError

SPHERE = (".sph", ".wav", ".flac")
"""NIST's audio format, and what it is often converted to, which is preferred."""


def release(corpus_dir: Path, *names: str) -> Path | None:
    """The folder of a release, by its catalogue number or another name; None if there is none."""
    return next((corpus_dir / name for name in names if (corpus_dir / name).is_dir()), None)


def require_release(corpus_dir: Path, *names: str) -> Path:
    """See :func:`release`.

    Raises:
        UserError: there is none.
    """
    found = release(corpus_dir, *names)
    if found is None:
        raise UserError(f"{corpus_dir} has no folder {' or '.join(names)}; unpack or link the release there")
    return found


def files_of(folders: Iterable[Path], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files under folders by their names without suffix; of files with one name, that with the last suffix.

    Links are followed, hidden files are not read. Suffixes are compared without case.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for where, names, files in os.walk(folder, followlinks=True):
            names.sort()
            for name in sorted(files):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() not in suffixes or name.startswith("."):
                    continue
                before = found.get(stem)
                if before is None or suffixes.index(before.suffix.lower()) < suffixes.index(suffix.lower()):
                    found[stem] = Path(where, name)
    return found


def only_file(folder: Path, pattern: str) -> Path:
    """The file under a folder whose name matches a pattern.

    Raises:
        UserError: there is none, or more than one.
    """
    found = sorted(path for path in folder.rglob(pattern) if path.is_file())
    if len(found) != 1:
        many = f"{len(found)} files {pattern}" if found else f"no {pattern}"
        raise UserError(f"{folder} has {many}; one is needed")
    return found[0]
