"""CMU AN4 (Census): 948 + 130 utterances of spelled names, addresses, dates and numbers, 16 kHz.

Reads this project's copy (``.ogg``) and the original releases (``.sph``, or ``.raw`` in either byte order):
all hold ``etc/an4_{train,test}.{fileids,transcription}`` and ``wav/``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from asrkit.corpora.utterances import AUDIO_SUFFIXES, Corpus, Utterance, last_speakers, with_split
from asrkit.errors import UserError
from asrkit.features.audio_files import write_samples
from asrkit.files import atomic_path, utf8_lines
from asrkit.text.normalize import normalize_an4

SAMPLING_RATE_HZ = 16000
NUM_DEV_SPEAKERS = 8
_LINE = re.compile(r"(.*)\(([^()]+)\)\s*$")


def read_an4(corpus_dir: Path, data_dir: Path) -> Corpus:
    """All utterances in the lists or on disk.

    The development set is the 8 speakers of train whose names sort last; splits are ``train``,
    ``dev`` and ``test``. Headerless ``.raw`` audio is rewritten as WAV under ``data_dir``.

    Raises:
        UserError: the folder is not an AN4 release.
    """
    utterances: list[Utterance] = []
    lists: list[Path] = []
    for split in ("train", "test"):
        ids_file = corpus_dir / "etc" / f"an4_{split}.fileids"
        text_file = corpus_dir / "etc" / f"an4_{split}.transcription"
        for path in (ids_file, text_file):
            if not path.is_file():
                raise UserError(f"{path} is missing; --corpus-dir must be AN4's folder with etc/ and wav/ in it")
            lists.append(path)
        texts = _read_transcriptions(text_file)
        listed = {line.strip().split("/")[-1]: line.strip() for line in utf8_lines(ids_file) if line.strip()}
        for id in [*listed, *(texts.keys() - listed.keys())]:
            speaker = id.split("-")[1] if id.count("-") >= 2 else "unknown"
            audio = _find_audio(corpus_dir / "wav" / listed[id], data_dir) if id in listed else None
            utterances.append(Utterance(id, split, speaker, texts.get(id), audio))
    dev = last_speakers((u.speaker for u in utterances if u.split == "train"), NUM_DEV_SPEAKERS)
    return Corpus(
        [with_split(u, "dev") if u.split == "train" and u.speaker in dev else u for u in utterances], lists=lists
    )


def _read_transcriptions(path: Path) -> dict[str, str]:
    texts = {}
    for number, line in enumerate(utf8_lines(path), 1):
        if not line.strip():
            continue
        match = _LINE.match(line)
        if not match:
            raise UserError(f"{path}:{number}: expected 'words (utterance-id)', found '{line.strip()}'")
        texts[match[2]] = normalize_an4(match[1])
    return texts


def _find_audio(stem: Path, data_dir: Path) -> Path:
    for suffix in AUDIO_SUFFIXES:
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return _raw_to_wav(path, data_dir) if suffix == ".raw" else path
    return stem.with_name(stem.name + AUDIO_SUFFIXES[0])


def _raw_to_wav(path: Path, data_dir: Path) -> Path:
    """Rewrites headerless 16-bit samples as WAV, in the byte order that gives the smoother waveform."""
    target = data_dir / "wav" / f"{path.stem}.wav"
    if not target.is_file():
        data = path.read_bytes()
        readings = [
            np.frombuffer(data[: len(data) // 2 * 2], dtype=order).astype(np.float64) for order in ("<i2", ">i2")
        ]
        smoothest = min(readings, key=lambda x: float(np.abs(np.diff(x)).sum() / (np.abs(x).sum() + 1)))
        with atomic_path(target) as temporary:
            write_samples(temporary, smoothest.astype(np.int16), SAMPLING_RATE_HZ)
    return target
