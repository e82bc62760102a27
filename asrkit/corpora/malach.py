"""MALACH: English interviews with survivors of the Holocaust (Picheny et al. 2019, arXiv 1908.03455), 16 kHz.

LDC2019S11, the speech recognition edition, has the lists of a Kaldi data folder for ``train`` and ``dev``; LDC2012S05
has the audio. Its ``dev``, on which results are reported, is our test set; our dev is some of its training speakers.
"""

from __future__ import annotations

import re
from pathlib import Path

from asrkit.corpora.lists import read_pairs
from asrkit.corpora.releases import files_of, require_release
from asrkit.corpora.utterances import Corpus, Problem, Utterance, last_speakers, with_split
from asrkit.errors import UserError
from asrkit.text.normalize import canonical
from asrkit.text.telephone import spelled

DEV_SPEAKERS = 10
SUFFIXES = (".mp2", ".mp3", ".sph", ".wav", ".flac")
LISTS = ("text", "segments", "utt2spk", "wav.scp")


def read_malach(corpus_dir: Path, data_dir: Path) -> Corpus:
    """The edition's training and test set.

    Raises:
        UserError: a release or a list is missing, or a list cannot be read.
    """
    edition = require_release(corpus_dir, "LDC2019S11", "malach_eng_speech_recognition")
    speech = require_release(corpus_dir, "LDC2012S05")
    root = edition / "data" if (edition / "data").is_dir() else edition
    recordings = files_of([speech], SUFFIXES)
    corpus = Corpus([])
    for folder, split in (("train", "train"), ("dev", "test")):
        paths = {name: root / folder / name for name in LISTS}
        for path in paths.values():
            if not path.is_file():
                raise UserError(f"{path} is missing; LDC2019S11 has it")
        corpus.lists += list(paths.values())
        texts, segments, speakers, files = (read_pairs(paths[name]) for name in LISTS)
        channels = root / folder / "reco2file_and_channel"
        sides = read_pairs(channels) if channels.is_file() else {}
        corpus.lists += [channels] if channels.is_file() else []
        corpus.problems += [
            Problem(id, f"{paths[missing]} has no line of it")
            for missing, ids in (("text", segments.keys() - texts.keys()), ("segments", texts.keys() - segments.keys()))
            for id in sorted(ids)
        ]
        for id, value in segments.items():
            words = value.split()
            if id not in texts:
                continue
            if not re.fullmatch(r"\S+ \d+(\.\d+)? \d+(\.\d+)?", " ".join(words)) or words[0] not in files:
                reason = f"{paths['segments']}: '{value}' is no part of a recording in wav.scp"
                corpus.problems.append(Problem(id, reason))
                continue
            text = normalize_malach(texts[id])
            if not text:
                continue
            begin, end = float(words[1]), float(words[2])
            audio = _audio(words[0], files[words[0]], recordings) or speech / f"{words[0]}.mp2"
            channel = sides.get(words[0], "").split()[-1:]
            corpus.utterances.append(
                Utterance(
                    id,
                    split,
                    speakers.get(id, words[0]),
                    text,
                    audio,
                    begin,
                    end - begin,
                    "AB".index(channel[0]) if channel and channel[0] in "AB" else None,
                )
            )
    training = {u.speaker for u in corpus.utterances if u.split == "train"}
    dev = last_speakers(training, min(DEV_SPEAKERS, len(training) // 10))
    corpus.utterances = [
        with_split(u, "dev") if u.split == "train" and u.speaker in dev else u for u in corpus.utterances
    ]
    return corpus


def _audio(recording: str, command: str, recordings: dict[str, Path]) -> Path | None:
    """The file in a line of wav.scp, which may be a command, wherever the release was unpacked."""
    named = [Path(word).stem for word in command.split() if Path(word).suffix.lower() in SUFFIXES]
    return next((recordings[name] for name in (*named, recording) if name in recordings), None)


def normalize_malach(text: str) -> str:
    """Lower-case words without noises and marks of unclear speech; broken-off words keep their hyphen."""
    text = re.sub(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}|\(\(|\)\)|%hesitation\b", " ", text.lower())
    words = [re.sub(r"^[^\w'%-]+|[^\w'-]+$", "", word) for word in spelled(text).split()]
    return canonical(" ".join(word.lstrip("%") for word in words if word.strip("-'%")))
