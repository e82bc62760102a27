"""The recordings to transcribe, and the formats of their texts: plain, JSON lines, CTM, SRT, VTT."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asrkit.errors import UserError, shown
from asrkit.export.recognizer import Transcript
from asrkit.features.audio_files import AUDIO_SUFFIXES
from asrkit.files import utf8_lines

LISTS = (".txt", ".lst", ".list", ".scp")
CUE_SECONDS, CUE_CHARACTERS, CUE_PAUSE_S = 6.0, 80, 0.8
"""Longest subtitle, and the pause that ends one."""


def recordings(arguments: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The recordings named by arguments, each with the relative path of its text.

    An argument is a file, a folder (the audio in it and below), a list of files (``.txt``, ``.lst``, ``.scp``, one per
    line, with or without an id before it), or ``-`` for such a list on standard input.

    Raises:
        UserError: a folder or list has no audio, or a list cannot be read.
    """
    paths: list[tuple[Path, Path]] = []
    for argument in arguments:
        if str(argument) == "-":
            paths += _listed(sys.stdin.read().splitlines(), Path(), "standard input")
        elif argument.is_dir():
            inside = list(_audio_in(argument))
            if not inside:
                raise UserError(f"no audio in the folder {shown(str(argument))}")
            paths += [(path, path.relative_to(argument)) for path in inside]
        elif argument.suffix.lower() in LISTS and argument.is_file():
            paths += _listed(utf8_lines(argument), argument.parent, str(argument))
        else:
            paths.append((argument, Path(argument.name)))
    return paths


def _audio_in(folder: Path) -> Iterator[Path]:
    for root, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(root, name)


def _listed(lines: Iterable[str], folder: Path, where: str) -> list[tuple[Path, Path]]:
    paths = []
    for line in lines:
        name = line.strip()
        if not name:
            continue
        words = name.split(maxsplit=1)
        candidates = [folder / name, Path(name), *([folder / words[1], Path(words[1])] if len(words) == 2 else [])]
        path = next((path for path in candidates if path.is_file()), folder / name)
        paths.append((path, Path(path.name)))
    if not paths:
        raise UserError(f"{where} lists no files")
    return paths


def output_paths(names: Sequence[Path], folder: Path, suffix: str) -> list[Path]:
    """The file of each recording's text.

    Raises:
        UserError: two recordings would be written to the same file.
    """
    paths = [folder / name.with_suffix(suffix) for name in names]
    repeated = [path for path, number in Counter(paths).items() if number > 1]
    if repeated:
        raise UserError(f"two recordings would be written to {shown(str(min(repeated)))}; transcribe them one by one")
    return paths


def as_text(transcript: Transcript) -> str:
    """The words."""
    return transcript.text


def as_json(transcript: Transcript) -> str:
    """One JSON object on a line."""
    values = {"path": shown(transcript.path), "text": transcript.text, "duration": transcript.duration_s}
    more: dict[str, Any] = {"warnings": list(transcript.warnings)} if transcript.warnings else {}
    return json.dumps(values | transcript.details | more, ensure_ascii=False, allow_nan=False)


def as_ctm(transcript: Transcript) -> str:
    """NIST's CTM: recording, channel from 1, begin, duration, word, confidence."""
    name = shown("_".join(Path(transcript.path).stem.split()))
    channel = max(0, transcript.channel) + 1
    rows = [
        (name, channel, f"{word['time']:.2f}", f"{word['end'] - word['time']:.2f}", word["word"], word["confidence"])
        for word in transcript.details["words"]
    ]
    return "\n".join(" ".join(map(str, row)) for row in rows)


def as_srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    return "\n".join(
        f"{n}\n{_clock(begin, ',')} --> {_clock(end, ',')}\n{text}\n"
        for n, (begin, end, text) in enumerate(cues(transcript.details["words"]), 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles."""
    rows = [
        f"{_clock(begin, '.')} --> {_clock(end, '.')}\n{text.replace('&', '&amp;').replace('<', '&lt;')}\n"
        for begin, end, text in cues(transcript.details["words"])
    ]
    return "\n".join(["WEBVTT\n", *rows])


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": as_text,
    "json": as_json,
    "ctm": as_ctm,
    "srt": as_srt,
    "vtt": as_vtt,
}
SUFFIXES = {"text": ".txt", "json": ".json", "ctm": ".ctm", "srt": ".srt", "vtt": ".vtt"}


def cues(words: Sequence[dict[str, Any]]) -> list[tuple[float, float, str]]:
    """Words as subtitles: begin, end, text."""
    subtitles: list[tuple[float, float, str]] = []
    for word in words:
        if subtitles:
            begin, end, text = subtitles[-1]
            fits = word["end"] - begin <= CUE_SECONDS and len(text) + 1 + len(word["word"]) <= CUE_CHARACTERS
            if fits and word["time"] - end <= CUE_PAUSE_S:
                subtitles[-1] = (begin, word["end"], f"{text} {word['word']}")
                continue
        subtitles.append((word["time"], word["end"], word["word"]))
    return subtitles


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
