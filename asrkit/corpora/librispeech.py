"""LibriSpeech (Panayotov et al. 2015; OpenSLR 12; CC BY 4.0) and the small corpora drawn from it.

All have the release's layout: ``<part>/<speaker>/<chapter>/<id>.flac`` (or a re-encoded copy) and ``*.trans.txt``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from asrkit.corpora.releases import files_of
from asrkit.corpora.utterances import AUDIO_SUFFIXES, Corpus, Problem, Utterance, with_split
from asrkit.errors import UserError
from asrkit.files import utf8_lines
from asrkit.text.normalize import canonical

TEST_SPEAKERS = ("84", "174", "251", "422")
DEV_SPEAKERS = ("652", "777")
"""Splits of :func:`read_librispeech_subset`."""
LABELLED_EVERY = 5


def read_librispeech(corpus_dir: Path, data_dir: Path, train: Sequence[str]) -> Corpus:
    """LibriSpeech: the parts ``train`` for training, dev-clean and test-clean.

    Raises:
        UserError: a part is missing.
    """
    root = _root(corpus_dir, train[0])
    return _read_parts(root, [*((part, "train") for part in train), ("dev-clean", "dev"), ("test-clean", "test")])


def read_mini_librispeech(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Mini LibriSpeech (OpenSLR 31): train-clean-5 for training, and the official test-clean (OpenSLR 12).

    Development is dev-clean-2, as in OpenSLR 31, or else dev-clean.

    Raises:
        UserError: a part is missing.
    """
    root = _root(corpus_dir, "train-clean-5")
    dev = "dev-clean-2" if (root / "dev-clean-2").is_dir() else "dev-clean"
    return _read_parts(root, [("train-clean-5", "train"), (dev, "dev"), ("test-clean", "test")])


def read_mini_librispeech_fifth(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Mini LibriSpeech with only every fifth speaker of train-clean-5, the labelled part for training with few
    transcripts."""
    return _select_speakers(read_mini_librispeech(corpus_dir, data_dir), labelled=True)


def read_mini_librispeech_rest(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Mini LibriSpeech with the speakers of train-clean-5 that :func:`read_mini_librispeech_fifth` excludes."""
    return _select_speakers(read_mini_librispeech(corpus_dir, data_dir), labelled=False)


def _select_speakers(corpus: Corpus, labelled: bool) -> Corpus:
    speakers = sorted({u.speaker for u in corpus.utterances if u.split == "train"})
    chosen = set(speakers[::LABELLED_EVERY]) if labelled else set(speakers) - set(speakers[::LABELLED_EVERY])
    corpus.utterances = [u for u in corpus.utterances if u.split != "train" or u.speaker in chosen]
    return corpus


def _read_parts(root: Path, parts: Iterable[tuple[str, str]]) -> Corpus:
    """Parts of the release, each as a split or as part of a split."""
    corpus = Corpus([])
    for part, split in parts:
        corpus.add(read_part(root, part), split)
    return corpus


def read_librispeech_subset(corpus_dir: Path, data_dir: Path) -> Corpus:
    """Half of dev-clean as a separate corpus: results are not comparable with those on test-clean.

    Test is speakers 84, 174, 251 and 422, dev is 652 and 777, train is the others.

    Raises:
        UserError: the folder is not the release.
    """
    held_out = dict.fromkeys(TEST_SPEAKERS, "test") | dict.fromkeys(DEV_SPEAKERS, "dev")
    corpus = read_part(_root(corpus_dir, "dev-clean"), "dev-clean")
    corpus.utterances = [with_split(u, held_out.get(u.speaker, "train")) for u in corpus.utterances]
    return corpus


def read_part(root: Path, part: str) -> Corpus:
    """The utterances of a part such as test-clean, without a split.

    Raises:
        UserError: the part is missing.
    """
    if not (root / part).is_dir():
        raise UserError(f"{root} holds no {part}; unpack it there (OpenSLR 12 and 31)")
    utterances, problems = [], []
    lists = sorted((root / part).rglob("*.trans.txt"))
    audio = files_of([root / part], (".flac", *AUDIO_SUFFIXES))
    for chapter in sorted({path.parent for path in audio.values()} - {path.parent for path in lists}):
        name = f"{chapter.parent.name}-{chapter.name}"
        problems.append(Problem(name, f"{chapter} has no transcripts {name}.trans.txt"))
    for list_path in lists:
        for line in utf8_lines(list_path):
            if not line.strip():
                continue
            id, _, text = line.partition(" ")
            speaker = id.split("-")[0]
            utterances.append(Utterance(id, "", speaker, canonical(text) or None, audio.pop(id, None)))
    chapters = {path.parent for path in lists}
    utterances += [
        Utterance(id, "", id.split("-")[0], None, path) for id, path in audio.items() if path.parent in chapters
    ]
    return Corpus(utterances, problems, lists=lists)


def _root(corpus_dir: Path, part: str) -> Path:
    """The folder with the parts: ``corpus_dir`` or LibriSpeech in it."""
    for root in (corpus_dir, corpus_dir / "LibriSpeech"):
        if (root / part).is_dir():
            return root
    raise UserError(f"{corpus_dir} holds no {part}; --corpus-dir must be LibriSpeech's folder")
