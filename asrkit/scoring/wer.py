"""Word and character error rates with NIST sclite's alignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asrkit.errors import UserError
from asrkit.scoring.alignment import GAP, Pair, align, count


@dataclass(frozen=True)
class Errors:
    """Error counts of some words."""

    reference: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def total(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors in percent of the reference; 100 for insertions into an empty reference, else 0."""
        if self.reference == 0:
            return 100.0 if self.total else 0.0
        return 100.0 * self.total / self.reference

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.reference + other.reference,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rate": round(self.rate, 4),
            "errors": self.total,
            "reference": self.reference,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
        }


def summed(counts: Iterable[tuple[str, Errors]]) -> dict[str, Errors]:
    """The counts of each name added up, in the order in which the names come."""
    table: dict[str, Errors] = {}
    for name, errors in counts:
        table[name] = table.get(name, Errors()) + errors
    return table


def count_errors(pairs: Iterable[Pair], reference_length: int) -> Errors:
    """Counts of one alignment."""
    substitutions = deletions = insertions = 0
    for ref, hyp in pairs:
        if ref == hyp:
            continue
        if hyp is GAP:  # the object itself, not an equal word
            deletions += 1
        elif ref is GAP:
            insertions += 1
        else:
            substitutions += 1
    return Errors(reference_length, substitutions, deletions, insertions)


@dataclass(frozen=True)
class ScoredUtterance:
    """An utterance with its alignments."""

    id: str
    speaker: str
    pairs: list[Pair]
    words: Errors
    characters: Errors


@dataclass(frozen=True)
class Score:
    """A scored set."""

    utterances: list[ScoredUtterance]
    words: Errors = field(init=False)
    characters: Errors = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", sum((u.words for u in self.utterances), Errors()))
        object.__setattr__(self, "characters", sum((u.characters for u in self.utterances), Errors()))

    @property
    def sentence_error_rate(self) -> float:
        """Utterances with at least one wrong word, in percent."""
        return 100.0 * sum(u.words.total > 0 for u in self.utterances) / max(1, len(self.utterances))

    def by_speaker(self) -> dict[str, Errors]:
        """Word errors of each speaker."""
        return dict(sorted(summed((u.speaker, u.words) for u in self.utterances).items()))

    def confusions(self, most: int) -> list[tuple[Pair, int]]:
        """The most frequent wrong pairs, gaps included."""
        wrong = Counter(pair for u in self.utterances for pair in u.pairs if pair[0] != pair[1])
        return sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:most]


def score_utterance(id: str, speaker: str, reference: str, hypothesis: str) -> ScoredUtterance:
    """Scores one utterance; characters are counted without the spaces between words, as sclite's ``-c`` does."""
    ref, hyp = reference.split(), hypothesis.split()
    ref_chars, hyp_chars = list("".join(ref)), list("".join(hyp))
    pairs = align(ref, hyp)
    characters = Errors(len(ref_chars), *count(ref_chars, hyp_chars))
    return ScoredUtterance(id, speaker, pairs, count_errors(pairs, len(ref)), characters)


def word_errors(reference: str, hypothesis: str) -> Errors:
    """The word errors of one utterance."""
    ref = reference.split()
    return Errors(len(ref), *count(ref, hypothesis.split()))


def oracle(reference: str, texts: Sequence[str]) -> str:
    """The text of an n-best list with the fewest word errors, the first of equally good ones; empty if none."""
    return min(texts, key=lambda text: word_errors(reference, text).total, default="")


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """WER in percent of (reference, hypothesis) texts, ignoring case.

    Raises:
        UserError: the references have no words.
    """
    return _scored(pairs).words.rate


def character_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """CER in percent of (reference, hypothesis) texts, ignoring case and spaces.

    Raises:
        UserError: the references have no characters.
    """
    return _scored(pairs).characters.rate


def score_pairs(pairs: Iterable[tuple[str, str]]) -> Score:
    """Scores (reference, hypothesis) texts, ignoring case."""
    return Score([score_utterance("", "", ref.lower(), hyp.lower()) for ref, hyp in pairs])


def _scored(pairs: Iterable[tuple[str, str]]) -> Score:
    scored = score_pairs(pairs)
    if not scored.words.reference:
        raise UserError(f"{len(scored.utterances)} transcripts hold no word, so there is no error rate")
    return scored
