"""The Corpus of Spontaneous Japanese (Maekawa 2003): academic and simulated public speeches, 16 kHz.

``{MORPH/SDB,SDB}/{core,noncore}/*.sdb`` hold the transcripts and ``WAV/{core,noncore}/*.wav`` the audio. Evaluation
sets, development set and excluded talks are those of Lhotse's recipe; except for development, they are also Kaldi's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lhotse.recipes import csj
from lhotse.recipes.csj import CSJSDBParser

from asrkit.corpora.releases import SPHERE, files_of
from asrkit.corpora.utterances import Corpus, Problem, Utterance
from asrkit.errors import UserError
from asrkit.text.normalize import canonical

TESTS = ("eval1", "eval2", "eval3")
_MASKED = "×"
"""Replaces masked names and words."""


def read_csj(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Training, development and the three evaluation sets; each side of a dialogue is a separate recording.

    Raises:
        UserError: the folder is not the release, or a transcript cannot be read.
    """
    folder = next((path for path in (corpus_dir / "MORPH" / "SDB", corpus_dir / "SDB") if path.is_dir()), None)
    if folder is None:
        raise UserError(f"{corpus_dir} has neither MORPH/SDB nor SDB; --corpus-dir must be the folder of CSJ")
    transcripts = files_of([folder], (".sdb",))
    recordings = files_of([corpus_dir / "WAV"], SPHERE)
    split_of = dict.fromkeys(csj._VALID, "dev")
    for name, talks in zip(TESTS, csj._EVAL, strict=True):
        split_of |= dict.fromkeys(talks, name)
    corpus = Corpus([], tests=TESTS, lists=sorted(transcripts.values()))
    corpus.problems += [
        Problem(name, f"there is no transcript {name}.sdb of its recording")
        for name in sorted({name.split("-")[0] for name in recordings} - transcripts.keys())
    ]
    masked = 0
    for name, path in sorted(transcripts.items()):
        if name in csj._A01M0056:  # by a speaker of eval2
            continue
        for segment, text in _segments(path):
            if _MASKED in text:
                masked += 1
            elif words := canonical(text):
                speaker = segment.sgid.rsplit("_", 1)[0]
                audio = recordings.get(speaker, corpus_dir / "WAV" / f"{speaker}.wav")
                begin, end = float(segment.start), float(segment.end)
                id = f"{speaker}_{round(1000 * begin):07d}-{round(1000 * end):07d}"
                split = split_of.get(name, "train")
                corpus.utterances.append(Utterance(id, split, speaker, words, audio, begin, end - begin))
    if masked:
        corpus.notes.append(f"{masked} utterances with masked words are left out")
    return corpus


def _segments(path: Path) -> list[tuple[Any, str]]:
    """The segments of a talk with their texts: Japanese characters without spaces or tags.

    The sides of a dialogue are parsed separately, as a tag may span segments of one side.

    Raises:
        UserError: the file has another format.
    """
    parser = CSJSDBParser()
    try:
        lines = [line for line in path.read_text(encoding="shift_jis").split("\n") if line]
        sides = [[line for line in lines if f" {side}:" in line.split("\t")[3]] for side in "LR"]
        segments = []
        with tempfile.TemporaryDirectory(prefix="asrkit-") as folder:
            for side in filter(None, sides if path.stem.startswith("D") else [lines]):
                side_path = Path(folder, path.name)
                side_path.write_text("\n".join([*side, ""]), encoding="shift_jis")
                segments += [(segment, parser.parse(segment.text)) for segment in csj._read_one_sdb(side_path)]
        return segments
    except (ValueError, IndexError, KeyError, AssertionError, UnicodeError, NotImplementedError) as error:
        raise UserError(f"{path} is not a transcript of CSJ ({type(error).__name__}: {error})") from error
