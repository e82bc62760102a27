"""speechocean762 (Zhang et al. 2021, arXiv 2104.01378; OpenSLR 101): English read by native Mandarin speakers.

2 × 125 speakers, half of them children, 20 utterances each, 16 kHz. The release's own train and test share most of
their sentences, so the split here is by speaker, and train keeps no sentence of dev or test. (Dev and test share some.)
"""

from __future__ import annotations

from pathlib import Path

from asrkit.corpora.lists import read_pairs
from asrkit.corpora.utterances import AUDIO_SUFFIXES, Corpus, Utterance
from asrkit.errors import UserError
from asrkit.text.normalize import canonical

NUM_HELD_OUT_SPEAKERS = 25
LISTS = ("text", "utt2spk", "wav.scp")


def read_speechocean762(corpus_dir: Path, data_dir: Path) -> Corpus:
    """All utterances except those of train whose sentence is in dev or test.

    Test is the 25 speakers of the release's test whose ids sort first, dev the next 25, train the other 200.

    Raises:
        UserError: the folder is not the release.
    """
    lists = {(part, name): corpus_dir / part / name for part in ("train", "test") for name in LISTS}
    tables = {key: _read(path) for key, path in lists.items()}
    pooled = {name: tables["train", name] | tables["test", name] for name in LISTS}
    speakers = sorted(set(tables["test", "utt2spk"].values()))
    held_out = dict.fromkeys(speakers[:NUM_HELD_OUT_SPEAKERS], "test")
    held_out |= dict.fromkeys(speakers[NUM_HELD_OUT_SPEAKERS : 2 * NUM_HELD_OUT_SPEAKERS], "dev")
    utterances = []
    for id, speaker in pooled["utt2spk"].items():
        text, place = pooled["text"].get(id), pooled["wav.scp"].get(id)
        utterances.append(
            Utterance(
                id,
                held_out.get(speaker, "train"),
                speaker,
                None if text is None else canonical(text),
                None if place is None else _audio(corpus_dir / place),
            )
        )
    known = {u.text for u in utterances if u.split != "train" and u.text is not None}
    kept = [u for u in utterances if u.split != "train" or u.text not in known]
    return Corpus(kept, lists=list(lists.values()))


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"{path} is missing; --corpus-dir must be speechocean762's folder with train/, test/ and WAVE/")
    return read_pairs(path)


def _audio(stated: Path) -> Path:
    """The listed file, or a re-encoded copy with another suffix."""
    others = [stated.with_suffix(suffix) for suffix in AUDIO_SUFFIXES]
    return next((path for path in (stated, *others) if path.is_file()), stated)
