"""Recordings from which a part cannot be read without decoding all before it, rewritten once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import soundfile

from asrkit.console import progress_bar
from asrkit.corpora.utterances import Corpus
from asrkit.errors import UserError
from asrkit.features.audio_files import UNREADABLE, UNWRITABLE, blocks, open_audio
from asrkit.features.shorten import is_shorten
from asrkit.files import atomic_path, name_hash
from asrkit.processes import mapping
from asrkit.records import stamp

UNPACKED = "unpacked"
"""Folder in prepared data."""
SUFFIXES = (".sph", ".nist")


def unpack(corpus: Corpus, corpus_dir: Path, folder: Path, num_jobs: int) -> Corpus:
    """The corpus with its recordings that are compressed with shorten rewritten as FLAC.

    Damaged ones stay as they are, for :func:`asrkit.corpora.utterances.check` to report.

    Args:
        corpus: as read.
        corpus_dir: the release.
        folder: where the FLAC files go; a recording that has not changed since is not decoded again.
        num_jobs: processes.

    Raises:
        UserError: a file cannot be written.
    """
    recordings = [p for p in dict.fromkeys(u.audio for u in corpus.utterances) if p and p.suffix.lower() in SUFFIXES]
    packed = [path for path in recordings if is_shorten(path)]
    if not packed:
        return corpus
    targets = [folder / _version(path, corpus_dir) / f"{path.stem}.flac" for path in packed]
    places: dict[Path | None, Path] = {}
    with mapping(num_jobs, chunksize=4) as run, progress_bar("unpacking", len(packed)) as bar:
        for path, place in zip(packed, run(_unpack, packed, targets), strict=True):
            places[path] = place
            bar.advance()
    return replace(corpus, utterances=[replace(u, audio=places.get(u.audio, u.audio)) for u in corpus.utterances])


def _version(path: Path, corpus_dir: Path) -> str:
    """Tells recordings of the same name, and versions of one, apart."""
    return name_hash(f"{os.path.relpath(path, corpus_dir)} {stamp(path)}")


def _unpack(path: Path, target: Path) -> Path:
    """Where the recording is now."""
    if target.is_file():
        return target
    try:
        with open_audio(path) as file:
            _rewrite(file, target)
    except UNREADABLE:
        return path
    return target


def _rewrite(file: soundfile.SoundFile, target: Path) -> None:
    settings = file.samplerate, file.channels, "PCM_16"
    try:
        with (
            atomic_path(target) as temporary,
            soundfile.SoundFile(temporary, "w", *settings, format="FLAC") as rewritten,
        ):
            for block in blocks(file):
                rewritten.write(block)
    except UNWRITABLE as error:
        raise UserError(f"cannot write {target}: {error}; free some space, then run again") from error
