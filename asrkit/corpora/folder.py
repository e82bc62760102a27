"""Any corpus: a folder of audio and a file ``text`` with one line per utterance, ``id words …``.

Optional files next to ``text``:

- ``utt2spk`` (``id speaker``; without it every utterance is its own speaker),
- ``split`` (``id train|dev|test``; without it, complete speakers are drawn for dev and test),
- ``wav.scp`` (``recording file``) and ``segments`` (``id recording begin end``), as in a Kaldi data folder.

A folder with several such folders, ``train``, ``dev`` (or ``valid``) and ``test``, is read too.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asrkit.corpora.lists import clean_id, match, missing_from, read_pairs
from asrkit.corpora.splits import split_named
from asrkit.corpora.unpack import UNPACKED
from asrkit.corpora.utterances import Corpus, Problem, Utterance
from asrkit.data.folder import SPLITS
from asrkit.errors import UserError, shown
from asrkit.features.audio_files import AUDIO_SUFFIXES, num_channels
from asrkit.features.listen import SPLIT
from asrkit.text.normalize import canonical

NOT_DATA = ("__MACOSX", "@eaDir")
"""Folders left by operating systems."""
PREPARED = ("features", UNPACKED)
"""Folders with audio in prepared data."""
LISTS = ("text", "utt2spk", "split", "wav.scp", "segments")
UNREAD = [".raw", ".pcm", ".vox", ".gsm", ".dss", ".ds2", ".ra", ".rm", ".mid", ".g722", ".adpcm", ".qcp"]
"""Suffixes of audio that is not passed to soundfile or ffmpeg; most of it has no header."""


@dataclass(frozen=True)
class Place:
    """Where the audio of an utterance is."""

    audio: Path
    start_s: float = 0.0
    duration_s: float | None = None
    channel: int | None = None


def read_folder(corpus_dir: Path, data_dir: Path, channel: str = "", unlabelled: bool = False) -> Corpus:
    """All utterances in the lists or on disk; an utterance's id is its audio file's name.

    If two files have the same name, their ids are paths from the corpus folder.

    Args:
        corpus_dir: the folder.
        data_dir: where prepared data goes; audio in it is excluded.
        channel: ``split`` makes each channel an utterance, with the channel's number in its id: ``call-0``.
        unlabelled: read audio without transcripts; ``text`` is ignored.

    Raises:
        UserError: no ``text`` file, no audio, or two files with one name in a folder.
    """
    if unlabelled and (any((corpus_dir / name).is_file() for name in LISTS) or not _train_lists(corpus_dir)):
        corpus = _read(corpus_dir, corpus_dir, data_dir, channel, unlabelled)
        corpus.utterances = [
            u if u.split else replace(u, split=_split_of(u.audio, corpus_dir)) for u in corpus.utterances
        ]
        return corpus
    parts = _train_lists(corpus_dir) if unlabelled else []
    if not unlabelled and not (corpus_dir / "text").is_file():
        parts = _parts(corpus_dir)
    if not parts:
        return _read(corpus_dir, corpus_dir, data_dir, channel, unlabelled)
    corpus = Corpus([])
    for split, folder in parts:
        corpus.add(_read(folder, corpus_dir, data_dir, channel, unlabelled), split)
    return corpus


def _parts(corpus_dir: Path, lists: Sequence[str] = ("text",)) -> list[tuple[str, Path]]:
    """Folders that are named after splits and contain one of the lists."""
    folders = [(split_named(p.name), p) for p in sorted(corpus_dir.iterdir())] if corpus_dir.is_dir() else []
    return [(split, p) for split, p in folders if split and any((p / name).is_file() for name in lists)]


def _train_lists(corpus_dir: Path) -> list[tuple[str, Path]]:
    """Folders of the training set with any list, for training without transcripts."""
    return [(split, path) for split, path in _parts(corpus_dir, LISTS) if split == "train"]


def _split_of(audio: Path | None, corpus_dir: Path) -> str:
    """The split in the name of an audio file's folder, empty if none."""
    if audio is None or not audio.is_relative_to(corpus_dir) or audio.parent == corpus_dir:
        return ""
    return split_named(audio.relative_to(corpus_dir).parts[0]) or ""


def _read(folder: Path, corpus_dir: Path, data_dir: Path, channel: str, unlabelled: bool = False) -> Corpus:
    lists = {name: folder / name for name in LISTS}
    if not unlabelled and not lists["text"].is_file():
        raise UserError(
            f"{lists['text']} is missing; write one line an utterance: its audio file's name, then its words. Speech "
            "without transcripts is prepared with --unlabelled"
        )
    lists = {name: path for name, path in lists.items() if path.is_file() and not (unlabelled and name == "text")}
    corpus = Corpus([], lists=list(lists.values()))
    if "wav.scp" in lists:
        places = _listed_audio(lists["wav.scp"], corpus_dir)
        unused: dict[str, Path] = {}
    else:
        places, unused = _audio_files(folder, data_dir, corpus)
    if channel == SPLIT:
        places = {
            f"{id}-{n}": replace(place, channel=n)
            for id, place in places.items()
            for n in range(num_channels(place.audio))
        }
    if "segments" in lists:
        places = _segments(lists["segments"], places, corpus)
    texts = {} if unlabelled else read_pairs(lists["text"], [id for id in places if " " in id])
    texts, problems = match(texts, places, "text", corpus.notes)
    # Ids in `text` without audio are still utterances, so that `check` counts them.
    known = {problem.id for problem in corpus.problems}
    without_audio = [p.id for p in problems if p.id not in places and p.id not in known]
    corpus.problems += [p for p in problems if p.id in places] + [_without_audio(id, unused) for id in without_audio]
    ids = [*texts, *(id for id in places if id not in texts)]
    recordings = _recordings(lists.get("segments"))
    speakers = _values(lists.get("utt2spk"), ids, without_audio, recordings, corpus)
    splits = _values(lists.get("split"), ids, without_audio, recordings, corpus, complete=not unlabelled)
    for id, split in splits.items():
        if split not in SPLITS:
            raise UserError(f"{lists['split']}: '{id}' is in '{split}'; the splits are train, dev and test")
    if not speakers:
        corpus.notes.append("there is no utt2spk: every utterance counts as a speaker of its own")
    dropped = {problem.id for problem in corpus.problems}
    corpus.utterances = [
        Utterance(
            id,
            splits.get(id, ""),
            speakers.get(id, id),
            canonical(texts[id]) if id in texts else None,
            places[id].audio,
            places[id].start_s,
            places[id].duration_s,
            places[id].channel,
        )
        for id in ids
        if id not in dropped
    ]
    return corpus


def _values(
    path: Path | None,
    ids: list[str],
    without_audio: list[str],
    recordings: dict[str, str],
    corpus: Corpus,
    complete: bool = True,
) -> dict[str, str]:
    """A list's values by utterance. It must name exactly the utterances, or their recordings."""
    if path is None:
        return {}
    listed = read_pairs(path, [id for id in [*ids, *without_audio] if " " in id])
    if recordings and set(listed) <= set(recordings.values()):
        listed = {id: listed[recording] for id, recording in recordings.items() if recording in listed}
    values, problems = match(listed, [*ids, *without_audio], path.name, corpus.notes)
    corpus.problems += problems + (missing_from(values, ids, path.name) if complete else [])
    return values


def _recordings(segments: Path | None) -> dict[str, str]:
    """The recording of each segment."""
    return {id: value.split()[0] for id, value in read_pairs(segments).items() if value} if segments else {}


def _without_audio(id: str, unused: dict[str, Path]) -> Problem:
    path = unused.get(id)
    if path:
        return Problem(
            id, f"there is a transcript, but {path.name} is in a format that cannot be read; convert it to WAV"
        )
    return Problem(id, "there is a transcript but no audio")


def _audio_files(folder: Path, data_dir: Path, corpus: Corpus) -> tuple[dict[str, Place], dict[str, Path]]:
    """Audio files under a folder by id, and those in unreadable formats by name."""
    paths: list[Path] = []
    unreadable: dict[str, Path] = {}
    for path in _files(folder, data_dir):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            paths.append(path)
        elif path.suffix.lower() in UNREAD:
            unreadable[unicodedata.normalize("NFC", path.stem)] = path
    repeated = {stem for stem, number in Counter(path.stem for path in paths).items() if number > 1}
    places: dict[str, Place] = {}
    for path in paths:
        name = path.stem if path.stem not in repeated else path.relative_to(folder).with_suffix("").as_posix()
        try:
            id = clean_id(name, str(path.parent))
        except UserError as error:
            corpus.problems.append(Problem(shown(name), f"{error}; rename the file"))
            continue
        if id in places:
            raise UserError(
                f"{places[id].audio} and {path} have the same name, which is the utterance's id; rename one"
            )
        places[id] = Place(path)
    if not places:
        raise UserError(f"no audio under {folder}; looked for {' '.join(AUDIO_SUFFIXES)}")
    return places, unreadable


def _files(folder: Path, data_dir: Path) -> Iterator[Path]:
    """Files under a folder, including linked folders, excluding hidden files and prepared data."""
    entered: set[tuple[int, int]] = set()
    for where, names, files in os.walk(folder, followlinks=True):
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in entered or Path(where).resolve() == data_dir.resolve() != folder.resolve():
            names.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        excluded = {*NOT_DATA, *(PREPARED if Path(where).resolve() == data_dir.resolve() else ())}
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in excluded)
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(where, name)


def _listed_audio(path: Path, corpus_dir: Path) -> dict[str, Place]:
    """``wav.scp``: files by recording, relative to the corpus folder, the list's folder, or the working directory."""
    places = {}
    for id, value in read_pairs(path).items():
        if value.endswith("|"):
            raise UserError(f"{path}: {id} is read by a command ({value[:40]}); write the audio to files first")
        roots = (corpus_dir, path.parent, Path())
        places[id] = Place(next((root / value for root in roots if (root / value).is_file()), corpus_dir / value))
    return places


def _segments(path: Path, recordings: dict[str, Place], corpus: Corpus) -> dict[str, Place]:
    places = {}
    for id, value in read_pairs(path).items():
        words = value.split()
        try:
            recording, begin, end = words[0], float(words[1]), float(words[2])
        except (IndexError, ValueError):
            raise UserError(
                f"{path}: '{id} {value}' is not a segment; write: id recording begin end, in seconds"
            ) from None
        if recording not in recordings:
            corpus.problems.append(Problem(id, f"its recording {recording} has no audio"))
        elif not (math.isfinite(begin) and math.isfinite(end) and 0 <= begin < end):
            corpus.problems.append(Problem(id, f"its segment from {begin:g} to {end:g} s is empty"))
        else:
            places[id] = replace(recordings[recording], start_s=begin, duration_s=end - begin)
    if unused := set(recordings) - set(_recordings(path).values()):
        corpus.notes.append(f"{len(unused)} recordings have no segment, such as {min(unused)}")
    return places
