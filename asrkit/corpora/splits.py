"""Train, dev and test splits: drawing them, and checking given ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from asrkit.corpora.utterances import Utterance, with_split
from asrkit.data.folder import SPLITS
from asrkit.errors import UserError
from asrkit.randomness import seeded_generator

HELD_OUT_SHARE = 0.1
"""Share of speech for each of dev and test."""
MOST_HELD_OUT = 1.5
"""Speakers with more than this times that share stay in train, and dev and test do not grow beyond it."""
STARVED = 0.5
"""A smaller share of the speech in train gives a warning."""
FEW_S = 1200.0
"""Less speech in train gives a warning."""
WORDS_FOR_FILE = "write a file 'split' with a line 'id train', 'id dev' or 'id test' for each utterance"


def draw_splits(utterances: Sequence[Utterance], durations: Mapping[str, float]) -> list[Utterance]:
    """Draws complete speakers for dev and test, about a tenth of the speech each; the largest speakers stay in train.

    Speakers are drawn by a hash of their names, so that new speakers change the splits of few others.

    Args:
        utterances: those without a split get one.
        durations: seconds by id; utterances missing from it are not counted.

    Raises:
        UserError: fewer than three speakers.
    """
    undecided = [u for u in utterances if not u.split]
    seconds: dict[str, float] = defaultdict(float)
    for u in undecided:
        if u.id in durations:
            seconds[u.speaker] += durations[u.id]
    if not seconds:
        return [with_split(u, u.split or "train") for u in utterances]
    if len(seconds) < len(SPLITS):
        raise UserError(f"{len(seconds)} speakers cannot be split into train, dev and test; {WORDS_FOR_FILE}")
    order = sorted(seconds, key=lambda s: seeded_generator("split", s).initial_seed())
    share = HELD_OUT_SHARE * sum(seconds.values())
    small = [s for s in order if seconds[s] <= MOST_HELD_OUT * share]
    if len(small) < 2:  # all are large: the two smallest are held out
        small = sorted(order, key=lambda s: seconds[s])[:2]
    held, split_of = {"dev": 0.0, "test": 0.0}, dict[str, str]()
    for speaker in small:
        split = min(held, key=lambda name: held[name])
        if (held[split] and held[split] + seconds[speaker] > MOST_HELD_OUT * share) or min(held.values()) >= share:
            continue
        split_of[speaker] = split
        held[split] += seconds[speaker]
    return [u if u.split else with_split(u, split_of.get(u.speaker, "train")) for u in utterances]


def across_splits(utterances: Sequence[Utterance], durations: Mapping[str, float]) -> list[str]:
    """Notes on what distorts results: shared speakers, shared transcripts and little training data."""
    used = [u for u in utterances if u.id in durations]
    notes = []
    speakers = _by_split(used, lambda u: u.speaker)
    for split in (split for split in speakers if split != "train"):
        if shared := speakers["train"] & speakers[split]:
            notes.append(
                f"{len(shared)} of {len(speakers[split])} speakers of {split} are in train too, such as {min(shared)}: "
                "the WER will say little about new speakers"
            )
    texts = _by_split(used, lambda u: u.text or "")
    for split in (split for split in texts if split not in ("train", "dev")):
        test = [u for u in used if u.split == split]
        if same := sum(u.text in texts["train"] for u in test):
            notes.append(f"{same} of {len(test)} transcripts of {split} are in train too")
    total = sum(durations.values())
    train = sum(durations[u.id] for u in used if u.split == "train")
    if train < STARVED * total:
        notes.append(f"train has only {train / 60:.1f} of {total / 60:.1f} minutes ({train / total:.0%})")
    if train < FEW_S and any(u.text for u in used):
        notes.append(f"train has {train / 60:.1f} minutes of speech: too few to learn more than a handful of words")
    return notes


def _by_split(utterances: Sequence[Utterance], value: Callable[[Utterance], str]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {split: set() for split in SPLITS}
    for u in utterances:
        values.setdefault(u.split, set()).add(value(u))
    return values


def split_named(name: str) -> str | None:
    """The split in a file's or folder's name, such as ``train_manifest.json``; None if it has none."""
    words = Path(name).name.lower().replace("-", "_").replace(".", "_").split("_")
    for split, names in (("train", ("train", "training")), ("dev", ("dev", "valid", "validation", "val"))):
        if any(word in names for word in words):
            return split
    return "test" if "test" in words else None
