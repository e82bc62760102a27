"""Transcripts to symbol ids and back: characters, or SentencePiece unigram and BPE models.

Symbol 0 is always blank.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sentencepiece

from asrkit.errors import UserError
from asrkit.symbols import BLANK, BLANK_ID, SPACE
from asrkit.text.normalize import canonical

LONGEST_LINE_BYTES = 1 << 24
"""SentencePiece ignores longer transcripts and their characters."""


@dataclass(frozen=True)
class CharTokenizer:
    """One symbol per character; the space is written ``▁``."""

    symbols: tuple[str, ...]
    """All symbols, blank first."""
    index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {symbol: number for number, symbol in enumerate(self.symbols)})

    @property
    def vocab_size(self) -> int:
        """Symbol count, blank included."""
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Symbol ids of ``text``, single spaces between words.

        Raises:
            UserError: a character that is not among the symbols.
        """
        characters = SPACE.join(text.split())
        unknown = sorted(set(characters) - self.index.keys())
        if unknown:
            raise UserError(
                f"'{text}' holds {', '.join(map(repr, unknown))}, which is not among the "
                f"{self.vocab_size - 1} characters of the tokenizer; fix the text, or rebuild the tokenizer with "
                "asrkit tokenizer --force"
            )
        return [self.index[character] for character in characters]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that ``tokens`` spell."""
        return " ".join("".join(self.symbols[token] for token in tokens).replace(SPACE, " ").split())

    def symbol(self, token: int) -> str:
        """The name of one symbol."""
        return self.symbols[token]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for :func:`tokenizer_from_dict`."""
        return {"type": "char", "symbols": list(self.symbols)}


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece unigram or BPE model in which piece 0 is blank."""

    model: bytes
    """The serialised SentencePiece model."""
    type: str
    processor: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "processor", sentencepiece.SentencePieceProcessor(model_proto=self.model))

    @property
    def vocab_size(self) -> int:
        """Symbol count, blank included."""
        return int(self.processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Symbol ids of ``text``.

        Raises:
            UserError: a character that the model has never seen.
        """
        tokens: list[int] = self.processor.encode(text)
        if self.processor.unk_id() in tokens:
            pieces = self.processor.encode(text, out_type=str)
            unknown = [piece for piece, token in zip(pieces, tokens, strict=True) if token == self.processor.unk_id()]
            raise UserError(
                f"'{text}' holds {', '.join(map(repr, unknown))}, which the SentencePiece model cannot spell; "
                "fix the text, or rebuild the tokenizer with asrkit tokenizer --force"
            )
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that ``tokens`` spell."""
        return str(self.processor.decode(list(tokens)))

    def symbol(self, token: int) -> str:
        """The name of one piece."""
        return str(self.processor.id_to_piece(token))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for :func:`tokenizer_from_dict`."""
        return {"type": self.type, "model": base64.b64encode(self.model).decode("ascii")}


Tokenizer = CharTokenizer | SentencePieceTokenizer
"""Any tokenizer of the toolkit."""


def train_tokenizer(texts: Iterable[str], type: str, vocab_size: int, soft_limit: bool = False) -> Tokenizer:
    """Builds a tokenizer from training transcripts.

    Args:
        texts: transcripts, normalised.
        type: ``char``, ``unigram`` or ``bpe``.
        vocab_size: symbols of a SentencePiece model, blank included; ``char`` takes all characters.
        soft_limit: take only as many symbols as the texts can fill.

    Raises:
        UserError: no text, more symbols than the text can fill, or too few for its characters.
    """
    lines = [canonical(text) for text in texts]
    if not any(lines):
        raise UserError("no transcripts to make a tokenizer from; prepare the corpus first")
    if type == "char":
        characters = sorted({SPACE if c == " " else c for line in lines for c in line})
        return CharTokenizer((BLANK, *characters))
    try:
        return SentencePieceTokenizer(_sentencepiece(lines, type, vocab_size), type)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        most = re.search(r"value <= (\d+)", reason)
        if most and soft_limit:
            return SentencePieceTokenizer(_sentencepiece(lines, type, int(most[1])), type)
        if most:
            fix = f"they fill {most[1]}: set tokenizer.vocab_size={most[1]} or less, or tokenizer.soft_limit=true"
        else:
            alphabet = len({c for line in lines for c in line})
            known = f"they hold {alphabet} characters: set tokenizer.vocab_size to more than {alphabet + 2}"
            fix = known if "vocab" in reason.lower() else f"{reason}; set another tokenizer.vocab_size"
        raise UserError(
            f"SentencePiece cannot make {vocab_size} symbols from {len(lines)} transcripts; {fix}"
        ) from error


def _sentencepiece(lines: Sequence[str], type: str, vocab_size: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=type,
        vocab_size=vocab_size,
        character_coverage=1.0,
        pad_id=BLANK_ID,
        pad_piece=BLANK,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        normalization_rule_name="identity",
        max_sentence_length=LONGEST_LINE_BYTES,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def tokenizer_from_dict(values: dict[str, Any]) -> Tokenizer:
    """The tokenizer described by the values of ``to_dict``.

    Raises:
        ValueError: not a tokenizer.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a tokenizer is a JSON object, not {type(values).__name__}")
    if values["type"] == "char":
        symbols = values["symbols"]
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) and symbol for symbol in symbols):
            raise ValueError("its symbols are not a list of texts")
        if len(set(symbols)) != len(symbols) or len(symbols) < 2 or symbols[BLANK_ID] != BLANK:
            raise ValueError(f"its symbols must be distinct and begin with {BLANK}")
        return CharTokenizer(tuple(symbols))
    if values["type"] not in ("unigram", "bpe"):
        raise ValueError(f"there is no tokenizer of type {values['type']!r}")
    tokenizer = SentencePieceTokenizer(base64.b64decode(values["model"], validate=True), values["type"])
    if tokenizer.vocab_size < 2 or tokenizer.symbol(BLANK_ID) != BLANK:
        raise ValueError(f"its pieces must begin with {BLANK}")
    return tokenizer


def words_with_times(tokenizer: Tokenizer, tokens: Sequence[int], times_s: Sequence[float]) -> list[tuple[str, float]]:
    """Words of a hypothesis with the time of their first symbol, in seconds."""
    return [(word, begin_s) for word, begin_s, _ in word_spans(tokenizer, tokens, times_s)]


def word_spans(tokenizer: Tokenizer, tokens: Sequence[int], times_s: Sequence[float]) -> list[tuple[str, float, float]]:
    """Words of a hypothesis with the times of their first and last symbol, in seconds."""
    words: list[tuple[list[int], float, float]] = []
    open_word = False
    for token, time_s in zip(tokens, times_s, strict=True):
        starts = tokenizer.symbol(token).startswith(SPACE)
        if starts or not open_word:
            words.append(([], time_s, time_s))
            open_word = True
        if tokenizer.symbol(token) == SPACE:
            open_word = False  # the word begins with the symbol after the space
        part, begin_s, _ = words[-1]
        words[-1] = ([*part, token], begin_s, time_s)
    spelled = [(tokenizer.decode(part), begin_s, end_s) for part, begin_s, end_s in words]
    return [span for span in spelled if span[0]]
