"""The transcript of a cut, as text and as labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lhotse.cut import Cut

from asrkit.errors import UserError
from asrkit.text.tokenizer import Tokenizer


def transcript(cut: Cut) -> str:
    """The transcript of a cut.

    Raises:
        UserError: it is missing or empty.
    """
    text = " ".join((s.text or "").strip() for s in cut.supervisions).strip()
    if not text:
        raise UserError(f"{cut.id} has an empty transcript; fix the corpus or prepare it with --skip-bad")
    return text


def encode_transcript(tokenizer: Tokenizer, cut: Cut) -> list[int]:
    """The labels of a cut.

    Raises:
        UserError: the transcript is empty, or the symbols cannot spell it; names the utterance.
    """
    text = transcript(cut)
    try:
        return tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"{cut.id}: {error}") from error


def frames_needed(tokens: Sequence[int]) -> int:
    """Encoder frames that CTC needs for labels: one for each, plus a blank between two equal ones."""
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


def encode_hypothesis(tokenizer: Tokenizer, text: str) -> list[int]:
    """The labels of a hypothesis; none if it contains SentencePiece's unknown mark, which cannot be encoded."""
    try:
        return tokenizer.encode(text)
    except UserError:
        return []
