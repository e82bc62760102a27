"""The Corpus of Spontaneous Japanese (Maekawa 2003): academic and simulated public speeches, 16 kHz.

``{MORPH/SDB,SDB}/{core,noncore}/*.sdb`` hold the transcripts and ``WAV/{core,noncore}/*.wav`` the audio. Evaluation
sets, development set and excluded talks are those of Lhotse's recipe, which are Kaldi's but for development.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lhotse.recipes import csj
from lhotse.recipes.csj import CSJSDBParser

from asrkit.corpora.releases import SPHERE, files_of
from asrkit.corpora.utterances import Corpus, Problem, Utterance
from asrkit.errors import UserError
from asrkit.text.normalize import canonical

TESTS = ("eval1", "eval2", "eval3")
_UNCLEAR = "×"
"""In place of what could not be understood."""


def read_csj(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Training, development and the three evaluation sets; dialogues are read side by side.

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
    unclear = 0
    for name, path in sorted(transcripts.items()):
        if name in csj._A01M0056:  # by a speaker of eval2
            continue
        for segment, text in _segments(path):
            if _UNCLEAR in text:
                unclear += 1
            elif words := canonical(text):
                speaker = segment.sgid.rsplit("_", 1)[0]
                audio = recordings.get(speaker, corpus_dir / "WAV" / f"{speaker}.wav")
                begin, end = float(segment.start), float(segment.end)
                id = f"{speaker}_{round(1000 * begin):07d}-{round(1000 * end):07d}"
                split = split_of.get(name, "train")
                corpus.utterances.append(Utterance(id, split, speaker, words, audio, begin, end - begin))
    if unclear:
        corpus.notes.append(f"{unclear} utterances that were not understood throughout are left out")
    return corpus


def _segments(path: Path) -> list[tuple[Any, str]]:
    """The segments of a talk, and what was said in each: Japanese characters without spaces or tags.

    Raises:
        UserError: the file is not of this format.
    """
    parser = CSJSDBParser()
    try:
        return [(segment, parser.parse(segment.text)) for segment in csj._read_one_sdb(path)]
    except (ValueError, IndexError, KeyError, AssertionError, UnicodeError, NotImplementedError) as error:
        raise UserError(f"{path} is not a transcript of CSJ ({type(error).__name__}: {error})") from error
