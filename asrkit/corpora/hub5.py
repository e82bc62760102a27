"""The test sets of telephone speech: Hub5'00, Hub5'01 and RT'03, each with its subsets.

All are scored on the segments of NIST's stm files. Each is optional.
"""

from __future__ import annotations

from pathlib import Path

from asrkit.corpora.releases import only_file, release
from asrkit.corpora.stm_release import read_stm_release
from asrkit.corpora.utterances import Corpus
from asrkit.text.stm import StmSegment
from asrkit.text.telephone import normalize_hub5

EVAL2000, HUB5_01, RT03 = "eval2000", "hub5_01", "rt03"
TESTS = (EVAL2000, HUB5_01, RT03)
_OF_2001 = {"swb1": "swbd"}
_NO_SUBSET = ("o", "m", "f")
"""Labels of all speakers, of men and of women."""


def add_tests(corpus: Corpus, corpus_dir: Path) -> None:
    """Adds the available test sets, and a note if eval2000 is incomplete.

    - ``eval2000``: audio LDC2002S09, transcripts LDC2002T43; subsets swbd and callhome.
    - ``hub5_01``: LDC2002S13 with its stm file; subsets swbd, s2p3 (Switchboard-2 phase 3) and s2p4 (cellular).
    - ``rt03``: LDC2007S10; subsets swbd and fisher.

    Raises:
        UserError: a release lacks its transcripts.
    """
    corpus.tests = TESTS
    speech, transcripts = release(corpus_dir, "LDC2002S09"), release(corpus_dir, "LDC2002T43")
    if speech and transcripts:
        stm = only_file(transcripts, "hub5e00.english.*.stm")
        corpus.add(read_stm_release([stm], _english(speech), EVAL2000, normalize_hub5, _subset_of_2000))
    elif speech or transcripts:
        missing = "LDC2002T43" if speech else "LDC2002S09"
        corpus.notes.append(f"{EVAL2000} needs {missing} too")
    if folder := release(corpus_dir, "LDC2002S13"):
        stm = only_file(folder, "hub5e01*.stm")
        corpus.add(read_stm_release([stm], _english(folder), HUB5_01, normalize_hub5, _subset_of_2001))
    if folder := release(corpus_dir, "LDC2007S10"):
        stms = sorted((folder / "data" / "references" / "eval03" / "english" / "cts").glob("*.stm"))
        audio = folder / "data" / "audio" / "eval03" / "english" / "cts"
        corpus.add(read_stm_release(stms, audio, RT03, normalize_hub5, _subset_of_2003))


def _english(folder: Path) -> Path:
    """The English part of a release; others are in Mandarin or Arabic."""
    return next((path for path in sorted(folder.rglob("english")) if path.is_dir()), folder)


def _subset_of_2000(segment: StmSegment) -> str:
    return "callhome" if segment.recording.startswith("en_") else "swbd"


def _subset_of_2001(segment: StmSegment) -> str:
    return next((_OF_2001.get(label, label) for label in segment.labels if label and label not in _NO_SUBSET), "")


def _subset_of_2003(segment: StmSegment) -> str:
    return "fisher" if segment.recording.startswith("fsh_") else "swbd"
