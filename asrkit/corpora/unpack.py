"""Recordings from which a part cannot be read without decoding all before it, rewritten once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import soundfile

from asrkit.console import progress_bar
from asrkit.corpora.utterances import Corpus
from asrkit.features.audio_files import UNREADABLE, blocks, open_audio
from asrkit.features.shorten import is_shorten
from asrkit.files import atomic_path
from asrkit.processes import mapping


def unpack(corpus: Corpus, corpus_dir: Path, folder: Path, num_jobs: int) -> Corpus:
    """The corpus with its recordings that are compressed with shorten rewritten as FLAC.

    Damaged ones stay as they are, for :func:`asrkit.corpora.utterances.check` to report.

    Args:
        corpus: as read.
        corpus_dir: the release.
        folder: where the FLAC files go; those of an earlier run are kept if their recordings have not changed.
        num_jobs: processes.
    """
    packed = [path for path in dict.fromkeys(u.audio for u in corpus.utterances) if path and is_shorten(path)]
    if not packed:
        return corpus
    targets = [folder / f"{path.stem}-{_short_digest(path, corpus_dir)}.flac" for path in packed]
    with mapping(num_jobs, chunksize=4) as run, progress_bar("unpacking", len(packed)) as bar:
        places: dict[Path | None, Path] = {}
        for path, place in zip(packed, run(_unpack, packed, targets), strict=True):
            places[path] = place
            bar.advance()
    return replace(corpus, utterances=[replace(u, audio=places.get(u.audio, u.audio)) for u in corpus.utterances])


def _short_digest(path: Path, corpus_dir: Path) -> str:
    """Tells recordings of the same name apart."""
    return hashlib.sha256(os.fsencode(os.path.relpath(path, corpus_dir))).hexdigest()[:8]


def _unpack(path: Path, target: Path) -> Path:
    """Where the recording is now."""
    state = path.stat()
    if target.is_file() and target.stat().st_mtime_ns == state.st_mtime_ns:
        return target
    try:
        with open_audio(path) as file, atomic_path(target) as temporary:
            with soundfile.SoundFile(
                temporary, "w", file.samplerate, file.channels, "PCM_16", format="FLAC"
            ) as rewritten:
                for block in blocks(file):
                    rewritten.write(block)
            os.utime(temporary, ns=(state.st_atime_ns, state.st_mtime_ns))
    except UNREADABLE:
        return path
    return target
