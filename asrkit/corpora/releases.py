"""Finding the files of corpus releases, however they were unpacked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from asrkit.errors import UserError

SPHERE = (".sph", ".wav", ".flac")
"""NIST's audio format, and the formats to which it is often converted, which are preferred."""


def release(corpus_dir: Path, *names: str) -> Path | None:
    """The folder of a release, by its catalogue number or another name; None if there is none."""
    return next((corpus_dir / name for name in names if (corpus_dir / name).is_dir()), None)


def require_release(corpus_dir: Path, *names: str) -> Path:
    """See :func:`release`.

    Raises:
        UserError: there is none.
    """
    folder = release(corpus_dir, *names)
    if folder is None:
        raise UserError(f"{corpus_dir} has no folder {' or '.join(names)}; unpack or link the release there")
    return folder


def files_of(folders: Iterable[Path], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files under folders by their names without suffix; of files with the same name, the one with the last suffix.

    Links are followed, and hidden files are ignored. Suffixes are compared without case.
    """
    paths: dict[str, Path] = {}
    for folder in folders:
        for root, names, files in os.walk(folder, followlinks=True):
            names.sort()
            for name in sorted(files):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() not in suffixes or name.startswith("."):
                    continue
                known = paths.get(stem)
                if known is None or suffixes.index(known.suffix.lower()) < suffixes.index(suffix.lower()):
                    paths[stem] = Path(root, name)
    return paths


def only_file(folder: Path, pattern: str) -> Path:
    """The file under a folder whose name matches a pattern.

    Raises:
        UserError: there is none, or more than one.
    """
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file())
    if len(paths) != 1:
        many = f"{len(paths)} files {pattern}" if paths else f"no {pattern}"
        raise UserError(f"{folder} has {many}; one is needed")
    return paths[0]
