"""Switchboard, alone (300 hours) and with Fisher and CallHome (2,000 hours), scored on Hub5'00, Hub5'01 and RT'03.

The corpus folder holds the releases by catalogue number: LDC97S62 (audio) and ``swb_ms98_transcriptions``; for 2,000
hours also Fisher's LDC2004S13, LDC2005S13 (audio), LDC2004T19, LDC2005T19 (transcripts) and CallHome's LDC97S42 and
LDC97T14; and the test sets of :mod:`asrkit.corpora.hub5`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from lhotse.recipes.fisher_english import create_supervision
from lhotse.recipes.switchboard import make_segments
from lhotse.supervision import SupervisionSegment

from asrkit.corpora.hub5 import add_tests
from asrkit.corpora.releases import SPHERE, files_of, release, require_release
from asrkit.corpora.utterances import Corpus, Problem, Utterance, with_split
from asrkit.errors import UserError
from asrkit.files import utf8_lines
from asrkit.text.telephone import normalize_callhome, normalize_fisher, normalize_switchboard, read_acronyms

DEV_UTTERANCES = 4000
"""From the first conversations, as in Kaldi's ``swbd/s5c``; a tenth of a smaller corpus."""
MOST_REPEATED = 300
"""Most training utterances with the same words, such as ``uh-huh``."""
SIDES = "AB"
_CALLHOME_LINE = re.compile(r"(\d+\.\d+)\s+(\d+\.\d+)\s+([AB])\d?:\s*(.*)")


def read_swb300(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Switchboard-1 Release 2 for training and development, and the test sets.

    Raises:
        UserError: a release is missing, or a transcript cannot be read.
    """
    corpus = _dev_and_train(_switchboard(corpus_dir))
    add_tests(corpus, corpus_dir)
    return corpus


def read_swb2000(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Switchboard, Fisher and, if available, CallHome.

    Raises:
        UserError: a release is missing, or a transcript cannot be read.
    """
    corpus = _dev_and_train(_switchboard(corpus_dir))
    for part in (_fisher(corpus_dir), _callhome(corpus_dir)):
        corpus.add(part, "train")
    add_tests(corpus, corpus_dir)
    return corpus


def _switchboard(corpus_dir: Path) -> Corpus:
    speech = require_release(corpus_dir, "LDC97S62")
    texts = require_release(corpus_dir, "swb_ms98_transcriptions")
    recordings = files_of([speech], SPHERE)
    transcripts = {
        f"sw0{name[2:6]}-{name[6].upper()}": path
        for name, path in files_of([texts], (".text",)).items()
        if re.fullmatch(r"sw\d{4}[AB]-ms98-a-trans", name, re.IGNORECASE)
    }
    corpus = Corpus([], lists=sorted(transcripts.values()))
    dictionary = texts / "sw-ms98-dict.text"
    acronyms = read_acronyms(utf8_lines(dictionary)) if dictionary.is_file() else set()
    corpus.lists += [dictionary] if dictionary.is_file() else []
    if not acronyms:
        corpus.notes.append(f"{dictionary} has no acronyms: TV stays a word, where the test sets have t v")
    normalize = partial(normalize_switchboard, acronyms=acronyms)
    corpus.problems += [
        Problem(f"{name}-{side}", f"{texts} has no transcript sw{name[3:]}{side}-ms98-a-trans.text of its recording")
        for name in sorted(recordings)
        for side in SIDES
        if f"{name}-{side}" not in transcripts
    ]
    for side, path in sorted(transcripts.items()):
        name, channel = side[:-2], SIDES.index(side[-1])
        for segment in _parsed(path, partial(make_segments, path, SimpleNamespace(id=name), channel)):
            # Lhotse names the speakers of both sides as side A.
            u = _utterance(segment, side, recordings.get(name, speech / f"{name}.sph"), normalize)
            if u.text:
                corpus.utterances.append(u)
    return corpus


def _fisher(corpus_dir: Path) -> Corpus:
    speech = [require_release(corpus_dir, name) for name in ("LDC2004S13", "LDC2005S13")]
    texts = [require_release(corpus_dir, name) for name in ("LDC2004T19", "LDC2005T19")]
    recordings = {n: p for n, p in files_of(speech, SPHERE).items() if n.startswith("fe_03_")}
    transcripts = {n: p for n, p in files_of(texts, (".txt",)).items() if re.fullmatch(r"fe_03_\d+", n)}
    corpus = Corpus([], lists=sorted(transcripts.values()))
    corpus.problems += [
        Problem(name, f"there is no transcript {name}.txt of its recording")
        for name in sorted(recordings.keys() - transcripts.keys())
    ]
    uncertain = 0
    for name, path in sorted(transcripts.items()):
        speakers = {name.split("_")[2]: {side: f"{name}-{side}" for side in SIDES}}
        for segment in _parsed(path, partial(create_supervision, (speakers, path))):
            if "((" in segment.text:  # words that the transcriber was not sure of
                uncertain += 1
                continue
            audio = recordings.get(name, speech[0] / f"{name}.sph")
            u = _utterance(segment, str(segment.speaker), audio, normalize_fisher)
            if u.text:
                corpus.utterances.append(u)
    if uncertain:
        corpus.notes.append(
            f"Fisher: {uncertain} utterances with words that the transcriber was not sure of are left out"
        )
    return corpus


def _callhome(corpus_dir: Path) -> Corpus:
    speech, texts = release(corpus_dir, "LDC97S42"), release(corpus_dir, "LDC97T14")
    if not speech or not texts:
        return Corpus([], notes=["CallHome (LDC97S42 and LDC97T14, 15 hours) is not there and not in train"])
    recordings = files_of([folder for folder in speech.rglob("train") if folder.is_dir()], SPHERE)
    transcripts = sorted(path for path in texts.rglob("*.txt") if path.parent.name == "train")
    corpus = Corpus([], lists=transcripts)
    corpus.problems += [
        Problem(name, f"{texts} has no transcript {name}.txt of its recording")
        for name in sorted(recordings.keys() - {path.stem for path in transcripts})
    ]
    for path in transcripts:
        name = path.stem
        for begin, end, side, text in _timed_lines(path):
            words = normalize_callhome(text)
            if not words or "((" in text or end <= begin:
                continue
            side, channel = f"{name}-{side}", SIDES.index(side)
            audio = recordings.get(name, speech / f"{name}.sph")
            id = _id(side, begin, end)
            corpus.utterances.append(Utterance(id, "", side, words, audio, begin, end - begin, channel))
    return corpus


def _timed_lines(path: Path) -> list[tuple[float, float, str, str]]:
    """Begin, end, side and words; a line without times continues the previous one."""
    lines: list[tuple[float, float, str, str]] = []
    for line in utf8_lines(path):
        if match := _CALLHOME_LINE.match(line.strip()):
            lines.append((float(match[1]), float(match[2]), match[3], match[4]))
        elif lines and line.strip() and not line.startswith("#"):
            begin, end, side, text = lines[-1]
            lines[-1] = begin, end, side, f"{text} {line.strip()}"
    return lines


def _parsed(path: Path, parse: Callable[[], Iterable[SupervisionSegment]]) -> list[SupervisionSegment]:
    try:
        return list(parse())
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a transcript of this release ({type(error).__name__}: {error})") from error


def _utterance(segment: SupervisionSegment, side: str, audio: Path, normalize: Callable[[str], str]) -> Utterance:
    begin, end = float(segment.start), float(segment.end)
    text = normalize(segment.text or "")
    return Utterance(_id(side, begin, end), "", side, text, audio, begin, end - begin, SIDES.index(side[-1]))


def _id(side: str, begin: float, end: float) -> str:
    """The id in Kaldi's form: ``sw02001-A_000098-001156`` is from 0.98 to 11.56 s."""
    return f"{side}_{round(100 * begin):06d}-{round(100 * end):06d}"


def _dev_and_train(corpus: Corpus) -> Corpus:
    """The first utterances are dev; of the others, at most ``MOST_REPEATED`` with the same words are train."""
    ordered = sorted(corpus.utterances, key=lambda u: u.id)
    number = min(DEV_UTTERANCES, len(ordered) // 10)
    seen: Counter[str] = Counter()
    kept = []
    for n, u in enumerate(ordered):
        if n < number:
            kept.append(with_split(u, "dev"))
            continue
        seen[u.text or ""] += 1
        if seen[u.text or ""] <= MOST_REPEATED:
            kept.append(with_split(u, "train"))
    if dropped := len(ordered) - len(kept):
        corpus.notes.append(f"{dropped} utterances of Switchboard whose words came {MOST_REPEATED} times are left out")
    return replace(corpus, utterances=kept)
