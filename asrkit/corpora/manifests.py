"""Corpora in other toolkits' formats: NeMo manifests, Hugging Face audio folders, Lhotse CutSets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asrkit.corpora.lists import clean_id
from asrkit.corpora.splits import split_named
from asrkit.corpora.utterances import Corpus, Utterance
from asrkit.data.cut_files import read_cuts
from asrkit.data.folder import SPLITS
from asrkit.errors import UserError
from asrkit.files import utf8_lines, utf8_text
from asrkit.text.normalize import canonical

TEXTS = ("text", "transcription", "sentence", "transcript")
MOST_SECONDS = 1e7
"""Latest start and longest duration of an utterance."""
SPEAKERS = ("speaker", "speaker_id", "client_id")


def read_nemo(corpus_dir: Path, data_dir: Path) -> Corpus:
    """NeMo's JSON lines: ``audio_filepath``, ``text`` and, for parts of a file, ``offset`` and ``duration``.

    ``*.json`` and ``*.jsonl`` in the folder are read. The split is the entry's ``split``, the one in the file's name
    (``train_manifest.json``, ``dev…``, ``validation…``, ``test…``), or drawn.

    Raises:
        UserError: no manifest, or a line that is not a manifest entry.
    """
    paths = [p for p in sorted(corpus_dir.iterdir()) if p.suffix in (".json", ".jsonl")] if corpus_dir.is_dir() else []
    corpus = Corpus([], lists=paths)
    for path in paths:
        for number, line in enumerate(utf8_lines(path), 1):
            if line.strip():
                corpus.utterances.append(_nemo_utterance(_json(line, f"{path}:{number}"), path, f"{path}:{number}"))
    return _required(corpus, corpus_dir, "manifest (*.json, *.jsonl)")


def _nemo_utterance(entry: dict[str, Any], path: Path, where: str) -> Utterance:
    if not Path(str(entry.get("audio_filepath", ""))).name:
        raise UserError(f"{where}: there is no audio_filepath; is it a NeMo manifest?")
    audio = _resolved(path.parent, str(entry["audio_filepath"]))
    start_s, is_part = _seconds(entry, "offset", where), "offset" in entry
    name = Path(str(entry["audio_filepath"])).with_suffix("").name
    id = str(entry.get("id") or entry.get("utt_id") or (f"{name}-{round(1000 * start_s):08d}" if is_part else name))
    duration_s = _seconds(entry, "duration", where) if is_part and "duration" in entry else None
    return _utterance(id, entry, path.stem, audio, where, start_s, duration_s)


def read_huggingface(corpus_dir: Path, data_dir: Path) -> Corpus:
    """A Hugging Face audio folder: ``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and the text.

    The list is in the folder, or in folders named after the splits.

    Raises:
        UserError: no list, or a malformed one.
    """
    paths = sorted(p for kind in ("csv", "jsonl") for p in corpus_dir.rglob(f"metadata.{kind}"))
    corpus = Corpus([], lists=paths)
    for path in paths:
        for number, entry in _rows(path):
            where = f"{path}:{number}"
            if not Path(str(entry.get("file_name") or "")).name:
                raise UserError(f"{where}: there is no file_name")
            audio = _resolved(path.parent, str(entry["file_name"]))
            place = path.parent.relative_to(corpus_dir) / str(entry["file_name"])
            id = str(entry.get("id") or place.with_suffix("").as_posix())
            folder, _, _ = str(entry["file_name"]).rpartition("/")
            split = path.parent.name if path.parent != corpus_dir else folder.split("/")[0]
            corpus.utterances.append(_utterance(id, entry, split, audio, where))
    return _required(corpus, corpus_dir, "metadata.csv or metadata.jsonl")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix == ".csv":
        try:
            for number, row in enumerate(csv.DictReader(io.StringIO(utf8_text(path)), strict=True), 2):
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}:{number}: it has other columns than the first line; quote texts with commas"
                    )
                yield number, row
        except csv.Error as error:
            raise UserError(f"{path}: it is not a CSV file ({error}); is a quotation mark missing?") from error
        return
    for number, line in enumerate(utf8_lines(path), 1):
        if line.strip():
            yield number, _json(line, f"{path}:{number}")


def read_lhotse(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Lhotse's CutSets, one per split: ``*train*.jsonl.gz``, ``*dev*`` (or ``*valid*``) and ``*test*``.

    Raises:
        UserError: no CutSet, or a cut that is not one utterance of one file.
    """
    paths = [p for p in sorted(corpus_dir.glob("*.jsonl*")) if split_named(p.name)]
    corpus = Corpus([], lists=paths)
    for path in paths:
        for cut in read_cuts(path):
            if len(cut.supervisions) != 1 or not cut.has_recording or len(cut.recording.sources) != 1:
                raise UserError(
                    f"{path}: {cut.id} is not one utterance of one file; run cut.trim_to_supervisions() first"
                )
            if cut.recording.transforms:
                raise UserError(f"{path}: {cut.id} is a changed copy of a recording; give the originals")
            supervision = cut.supervisions[0]
            audio = _resolved(path.parent, cut.recording.sources[0].source)
            is_part = cut.start > 0 or cut.duration < cut.recording.duration
            corpus.utterances.append(
                Utterance(
                    clean_id(cut.id, str(path)),
                    split_named(path.name) or "",
                    supervision.speaker or cut.id,
                    None if supervision.text is None else canonical(supervision.text),
                    audio,
                    cut.start,
                    cut.duration if is_part else None,
                    cut.channel if isinstance(cut.channel, int) and cut.recording.num_channels > 1 else None,
                )
            )
    return _required(corpus, corpus_dir, "CutSet (*train*.jsonl.gz)")


def _utterance(
    id: str,
    entry: dict[str, Any],
    split_hint: str,
    audio: Path,
    where: str,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> Utterance:
    id = clean_id(id, where)
    text = next((entry[name] for name in TEXTS if entry.get(name) is not None), None)
    speaker = next((str(entry[name]) for name in SPEAKERS if entry.get(name) not in (None, "")), id)
    split = str(entry.get("split") or split_named(split_hint) or "")
    if split and split not in SPLITS:
        split = split_named(split) or _refused_split(split, where)
    return Utterance(id, split, speaker, None if text is None else canonical(str(text)), audio, start_s, duration_s)


def _refused_split(split: str, where: str) -> str:
    raise UserError(f"{where}: the split is '{split}'; the splits are {', '.join(SPLITS)}")


def _json(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be a JSON object, not {type(value).__name__}")
    return value


def _seconds(entry: dict[str, Any], name: str, where: str) -> float:
    try:
        value = float(entry.get(name, 0.0))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {name} is {entry[name]!r}, not seconds") from error
    if not 0 <= value <= MOST_SECONDS:
        raise UserError(f"{where}: {name} is {value}, not seconds")
    return value


def _resolved(folder: Path, name: str) -> Path:
    """The file named by a list, relative to the list or to the working directory."""
    return next((path for path in (folder / name, Path(name)) if path.is_file()), folder / name)


def _required(corpus: Corpus, corpus_dir: Path, what: str) -> Corpus:
    if not corpus.utterances:
        raise UserError(f"{corpus_dir} holds no {what} with entries")
    if all(u.speaker == u.id for u in corpus.utterances):
        corpus.notes.append("there are no speakers: every utterance counts as a speaker of its own")
    return corpus
