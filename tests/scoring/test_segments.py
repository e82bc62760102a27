"""Counts on segments of recordings, against hubscr.pl on random references and hypotheses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from asrkit.errors import UserError
from asrkit.scoring.hub5 import hubscr_errors, hubscr_folder
from asrkit.scoring.segments import segment_errors, speaker_errors
from asrkit.scoring.wer import Errors

WORDS = [
    "the",
    "of",
    "a",
    "to",
    "house",
    "runs",
    "mouse",
    "bear",
    "uh",
    "um",
    "mm-hm",
    "'cause",
    "gonna",
    "okay",
    "he's",
    "firm's",
    "tv",
    "de",
    "dec",
    "december",
    "twenty-one",
    "well-known",
    "t.",
    "v.",
    "o.",
    "k.",
    "is",
    "has",
    "he",
    "going",
    "adviser",
    "advisers",
    "falkner",
    "william",
    "good",
    "by",
    "ice",
    "cream",
]


def reference(draw: random.Random) -> list[str]:
    """A reference with optional words and groups, fragments and alternatives."""
    written = []
    for _ in range(draw.choice([0, 1, 2, 3, 5, 8, 12])):
        kind, word = draw.random(), draw.choice(WORDS)
        if kind < 0.12:
            word = f"({word})"
        elif kind < 0.15:
            word = f"(a {draw.choice(WORDS)} {word})"
        elif kind < 0.22:
            word = f"{word[: draw.randint(1, 3)]}-"
        elif kind < 0.25:
            word = f"-{word[-2:]}"
        elif kind < 0.27:
            word = f"({word[:2]}-)"
        elif kind < 0.35:
            ways = [
                " ".join(draw.choice(WORDS) for _ in range(draw.choice([1, 1, 2]))) for _ in range(draw.choice([2, 3]))
            ]
            word = "{ " + " / ".join([*ways, *(["@"] if draw.random() < 0.3 else [])]) + " }"
        elif kind < 0.37:
            word = "it's"
        written.append(word)
    return written


def hypothesis(draw: random.Random, written: Sequence[str]) -> list[str]:
    """What a recognizer makes of the first alternatives of a reference."""
    said, skip = [], False
    for word in " ".join(written).replace("(", "").replace(")", "").split():
        skip = word == "/" or (skip and word != "}")
        error = draw.random()
        if skip or word in "{}@" or error < 0.12:
            continue
        if error < 0.32:
            said.append(draw.choice(WORDS))
        if error >= 0.25:
            said.append(word.removeprefix("-") or "a")
    return said


def conversations(seed: int, segments: int) -> tuple[list[str], list[str]]:
    """Lines of an stm and of a ctm of two-sided conversations, some words between segments or across their ends."""
    draw = random.Random(seed)
    stm, ctm = [], []
    for side in range(80):
        recording, channel = f"rec{side // 2:02}", "AB"[side % 2]
        start = 0.0
        for _ in range(segments // 80 + 1):
            written = reference(draw)
            said = hypothesis(draw, written)
            end = start + draw.uniform(0.5, 3)
            text = " ".join(written) if draw.random() > 0.03 else "IGNORE_TIME_SEGMENT_IN_SCORING"
            label = draw.choice(["", "<o,x> ", "<O> "])
            stm.append(f"{recording} {channel} {recording}_{channel} {start:.2f} {end:.2f} {label}{text}")
            step = (end - start) / max(1, len(said))
            for i, word in enumerate(said):
                at = max(0.0, start + i * step + draw.choice([0, 0, 0, -0.3, 0.2]))
                ctm.append((recording, channel, at, step * draw.uniform(0.5, 1), word))
            start = end + draw.choice([0, 0.1, 0.5])
    return stm, [f"{r} {c} {at:.2f} {length:.2f} {word}" for r, c, at, length, word in sorted(ctm, key=lambda w: w[:3])]


@pytest.mark.skipif(hubscr_folder() is None, reason="hubscr.pl is not installed (tools/install_sctk.sh)")
def test_every_count_of_every_speaker_is_hubscrs(glm: Path, tmp_path: Path) -> None:
    programs = hubscr_folder()
    assert programs is not None
    stm, ctm = conversations(seed=5, segments=2200)
    labels = [';; CATEGORY "0" "" ""', *(f';; LABEL "{name}" "{name}" "{name}"' for name in "OX")]
    theirs = hubscr_errors(programs, labels + stm, ctm, glm, tmp_path)
    scored = segment_errors(stm, ctm, glm)
    assert len(scored) > 2000 and len(theirs) == 80
    assert speaker_errors(scored) == theirs
    total = sum(theirs.values(), Errors())
    assert min(total.substitutions, total.deletions, total.insertions) > 1000


def test_words_belong_to_the_segment_of_their_middle(glm: Path) -> None:
    stm = ["r A s 0.00 1.00 one", "r A s 1.00 2.00 two", "r A s 5.00 6.00 three", "r B t 0.00 1.00"]
    ctm = ["r A 0.80 0.30 one", "r A 0.90 0.30 two", "r A 3.00 0.10 four", "r A 9.00 0.10 three", "r B 0.10 0.10 uh"]
    scored = segment_errors(stm, ctm, glm)
    assert [errors for _, _, errors in scored] == [Errors(1), Errors(1), Errors(1, 0, 0, 1), Errors(0, 0, 0, 1)]
    assert speaker_errors(scored) == {"s": Errors(3, 0, 0, 1), "t": Errors(0, 0, 0, 1)}


@pytest.mark.parametrize(
    ("stm", "ctm", "message"),
    [
        (["r A s 0.00 x one"], [], "a line of the stm: expected"),
        (["r A s"], [], "a line of the stm: expected"),
        (["r A s 0 1 one"], ["r A 0.1 one"], "a line of the ctm: expected"),
        (["r A s 0 1 one (uh"], [], "has parentheses that do not match"),
    ],
)
def test_lines_that_cannot_be_read(stm: list[str], ctm: list[str], message: str, glm: Path) -> None:
    with pytest.raises(UserError, match=message):
        segment_errors(stm, ctm, glm)
