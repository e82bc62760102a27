"""Word errors of time-marked hypotheses (ctm) on segments of recordings (stm), as NIST's ``hubscr.pl`` counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrkit.errors import UserError, shown
from asrkit.scoring.alignment import Pair
from asrkit.scoring.glm import filter_text, filter_word, read_rules
from asrkit.scoring.wer import Errors, summed
from asrkit.scoring.word_network import Part, align_networks, errors_of, network, parse

IGNORED = "ignore_time_segment_in_scoring", "ignoretimesegmentinscoring"
"""Texts of a segment that is excluded, together with the words recognized in it."""


@dataclass(frozen=True)
class Segment:
    """A line of an stm file."""

    recording: str
    channel: str
    speaker: str
    start_s: float
    end_s: float
    """In sclite's single precision, which matters for words whose middle is on the boundary."""
    text: str

    @property
    def side(self) -> tuple[str, str]:
        """Recording and channel."""
        return self.recording, self.channel


@dataclass(frozen=True)
class Word:
    """A line of a ctm file, after the rules were applied."""

    middle_s: float
    part: Part


def segment_errors(stm: Sequence[str], ctm: Sequence[str], glm: Path) -> list[tuple[Segment, list[Pair], Errors]]:
    """Each segment with its alignment and counts, by recording, channel and time.

    A recognized word belongs to the first segment that ends after its middle; words after the end of the last segment
    belong to the last.

    Args:
        stm: ``recording channel speaker start end <labels> words`` lines; comments begin with ``;;``.
        ctm: ``recording channel start duration word`` lines.
        glm: file of NIST's rules.

    Raises:
        UserError: a line or a rule cannot be read.
    """
    rules = read_rules(glm, "stm", "ref"), read_rules(glm, "ctm", "hyp")
    segments = sorted(
        (_segment(line) for line in stm if line.strip() and not line.startswith(";;")),
        key=lambda segment: (*segment.side, segment.start_s),
    )
    filtered: dict[str, list[list[str]]] = {}
    words: dict[tuple[str, str], list[Word]] = {}
    for recording, channel, start, duration, word in sorted(map(_fields, ctm), key=lambda row: row[:3]):
        if word not in filtered:
            filtered[word] = filter_word(word, rules[1])
        words.setdefault((recording, channel), []).extend(_timed(filtered[word], start, duration))
    scored = []
    for number, segment in enumerate(segments):
        remaining = words.get(segment.side, [])
        is_last = number + 1 == len(segments) or segments[number + 1].side != segment.side
        end = next(
            (n for n, word in enumerate(remaining) if word.middle_s >= segment.end_s and not is_last), len(remaining)
        )
        words[segment.side] = remaining[end:]
        text = filter_text(segment.text, rules[0])
        if not any(mark in text.lower() for mark in IGNORED):
            pairs = align_networks(network(parse(text)), network([word.part for word in remaining[:end]]))
            scored.append((segment, pairs, errors_of(pairs)))
    return scored


def speaker_errors(scored: Iterable[tuple[Segment, list[Pair], Errors]]) -> dict[str, Errors]:
    """The counts of each speaker, with the names in lower case."""
    return summed((segment.speaker.lower(), errors) for segment, _, errors in scored)


def _segment(line: str) -> Segment:
    fields = line.split(maxsplit=5)
    try:
        recording, channel, speaker, start, end = fields[:5]
        text = fields[5].strip() if len(fields) > 5 else ""
        if text.startswith("<"):
            text = text.partition(">")[2]
        return Segment(recording, channel, speaker, float(start), float(np.float32(end)), text)
    except ValueError:
        raise _unreadable("stm", "recording channel speaker start end words", line) from None


def _fields(line: str) -> tuple[str, str, float, float, str]:
    fields = line.split()
    try:
        recording, channel, start, duration, word = fields[:5]
        return recording, channel, float(start), float(duration), word
    except ValueError:
        raise _unreadable("ctm", "recording channel start duration word", line) from None


def _unreadable(kind: str, expected: str, line: str) -> UserError:
    return UserError(f"a line of the {kind}: expected '{expected}', found '{shown(line.strip()[:80])}'")


def _timed(alternatives: Sequence[Sequence[str]], start: float, duration: float) -> list[Word]:
    """Divides a word's time among the words that replace it. Alternatives stay together, at the last one's time."""
    if len(alternatives) > 1:
        steps = [duration / len(words) for words in alternatives]
        middle = max(_middle(start, step, len(words) - 1) for words, step in zip(alternatives, steps, strict=True))
        return [Word(middle, [list(words) for words in alternatives])]
    return [
        Word(_middle(start, duration / len(words), n), word) for words in alternatives for n, word in enumerate(words)
    ]


def _middle(start: float, step: float, n: int) -> float:
    """The middle of the n-th of equal steps, with the three digits that NIST's filter writes."""
    return float(f"{start + n * step:.3f}") + float(f"{step:.3f}") / 2
