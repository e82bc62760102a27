"""Word errors of time-marked hypotheses (ctm) on segments of recordings (stm), as NIST's ``hubscr.pl`` counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrkit.errors import UserError, shown
from asrkit.scoring.alignment import Pair
from asrkit.scoring.glm import filter_text, filter_word, read_rules
from asrkit.scoring.wer import Errors
from asrkit.scoring.word_network import Part, align_networks, errors_of, network, parse

IGNORED = "ignore_time_segment_in_scoring"
"""Text of a segment that does not count, nor what was recognized in it."""


@dataclass(frozen=True)
class Segment:
    """A line of an stm file."""

    recording: str
    channel: str
    speaker: str
    start_s: float
    end_s: float
    """In sclite's single precision, which decides about words in the middle of a hundredth."""
    text: str

    @property
    def side(self) -> tuple[str, str]:
        """Recording and channel."""
        return self.recording, self.channel


@dataclass(frozen=True)
class Word:
    """A line of a ctm file, after the rules."""

    middle_s: float
    said: Part


def segment_errors(stm: Sequence[str], ctm: Sequence[str], glm: Path) -> list[tuple[Segment, list[Pair], Errors]]:
    """Each segment with its alignment and counts, by recording, channel and time.

    A recognized word belongs to the first segment that ends after its middle; what comes after the last one's end
    belongs to that.

    Args:
        stm: ``recording channel speaker start end <labels> words`` lines; comments begin with ``;;``.
        ctm: ``recording channel start duration word`` lines.
        glm: file of NIST's rules.

    Raises:
        UserError: a line or a rule that cannot be read.
    """
    rules = read_rules(glm, "stm", "ref"), read_rules(glm, "ctm", "hyp")
    segments = sorted(
        (_segment(line, number) for number, line in enumerate(stm, 1) if line.strip() and not line.startswith(";;")),
        key=lambda segment: (*segment.side, segment.start_s),
    )
    known: dict[str, list[list[str]]] = {}
    words: dict[tuple[str, str], list[Word]] = {}
    for recording, channel, start, duration, word in sorted(map(_fields, ctm), key=lambda row: row[:3]):
        if word not in known:
            known[word] = filter_word(word, rules[1])
        words.setdefault((recording, channel), []).extend(_timed(known[word], start, duration))
    scored = []
    for number, segment in enumerate(segments):
        left = words.get(segment.side, [])
        is_last = number + 1 == len(segments) or segments[number + 1].side != segment.side
        here = next((n for n, word in enumerate(left) if word.middle_s >= segment.end_s and not is_last), len(left))
        words[segment.side] = left[here:]
        text = filter_text(segment.text, rules[0])
        if IGNORED not in text.lower():
            pairs = align_networks(network(parse(text)), network([word.said for word in left[:here]]))
            scored.append((segment, pairs, errors_of(pairs)))
    return scored


def speaker_errors(scored: Iterable[tuple[Segment, list[Pair], Errors]]) -> dict[str, Errors]:
    """The counts of each speaker, whose names are in lower case."""
    table: dict[str, Errors] = {}
    for segment, _, errors in scored:
        name = segment.speaker.lower()
        table[name] = table.get(name, Errors()) + errors
    return table


def _segment(line: str, number: int) -> Segment:
    fields = line.split(maxsplit=5)
    try:
        recording, channel, speaker, start, end = fields[:5]
        text = fields[5].strip() if len(fields) > 5 else ""
        if text.startswith("<"):
            text = text.partition(">")[2]
        return Segment(recording, channel, speaker, float(start), float(np.float32(end)), text)
    except ValueError:
        raise UserError(
            f"line {number} of the stm: expected 'recording channel speaker start end words', found "
            f"'{shown(line.strip()[:80])}'"
        ) from None


def _fields(line: str) -> tuple[str, str, float, float, str]:
    fields = line.split()
    try:
        recording, channel, start, duration, word = fields[:5]
        return recording, channel, float(start), float(duration), word
    except ValueError:
        raise UserError(
            f"a line of the ctm: expected 'recording channel start duration word', found '{shown(line.strip()[:80])}'"
        ) from None


def _timed(ways: Sequence[Sequence[str]], start: float, duration: float) -> list[Word]:
    """Words that share the time of the one that they came from; alternatives stay together, at the last one's place."""
    if len(ways) > 1:
        steps = [duration / len(said) for said in ways]
        middle = max(_middle(start, step, len(said) - 1) for said, step in zip(ways, steps, strict=True))
        return [Word(middle, [list(said) for said in ways])]
    return [Word(_middle(start, duration / len(said), n), word) for said in ways for n, word in enumerate(said)]


def _middle(start: float, step: float, n: int) -> float:
    """Of the n-th of equal steps, with the three digits that NIST's filter writes."""
    return float(f"{start + n * step:.3f}") + float(f"{step:.3f}") / 2
