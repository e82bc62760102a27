"""Text for language models: encoded once, then read from disk line by line, in any order.

Lines are stored as symbol ids in one memory-mapped array, so that a text larger than memory can be shuffled and
training can resume at any step of an epoch.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrkit.data.cut_files import read_cuts
from asrkit.errors import UserError
from asrkit.files import atomic_path, locked, write_json
from asrkit.records import INPUTS, Record
from asrkit.text.normalize import canonical
from asrkit.text.tokenizer import Tokenizer

POOL = 100
"""Batches whose lines are sorted by length together."""
MOST_NAMED = 10
"""Unknown characters that a message names."""


@dataclass(frozen=True)
class TextLines:
    """Encoded lines on disk."""

    tokens: np.ndarray
    """The symbols of all lines, concatenated."""
    starts: np.ndarray
    """(lines + 1,) where each line begins."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Symbols of each line."""
        return np.diff(self.starts)

    def batch(self, lines: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Lines by number: tokens (B, U) padded with 0, and their lengths (B,)."""
        lens = torch.from_numpy(self.lengths[lines].astype(np.int64))
        tokens = torch.zeros(len(lines), int(lens.max()), dtype=torch.int64)
        for b, line in enumerate(lines):
            part = self.tokens[self.starts[line] : self.starts[line + 1]]
            tokens[b, : len(part)] = torch.from_numpy(part.astype(np.int64))
        return tokens, lens


@dataclass(frozen=True)
class Excluded:
    """Lines that are not used."""

    too_long: int = 0
    unknown: int = 0
    """With characters that the tokenizer does not know."""
    characters: tuple[str, ...] = ()
    """Some of these."""

    def __str__(self) -> str:
        if not (self.too_long or self.unknown):
            return "none excluded"
        named = " ".join(repr(c) for c in self.characters)
        parts = [f"{self.too_long} excluded as too long (lm.max_symbols)"] if self.too_long else []
        parts += (
            [f"{self.unknown} excluded for characters that the tokenizer lacks, such as {named}"]
            if self.unknown
            else []
        )
        return ", ".join(parts)


def encode_text(
    paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, max_symbols: int
) -> tuple[TextLines, Excluded]:
    """Encodes text files, or reuses the result of an earlier call with the same files and symbols in ``folder``.

    Args:
        paths: text with one sentence per line (``.gz`` or not), or CutSets (``.jsonl.gz``) whose transcripts are used.
        tokenizer: symbols.
        folder: where the arrays go.
        max_symbols: longer lines are excluded.

    Returns:
        The lines, and those that are excluded.

    Raises:
        UserError: a file cannot be read, or no line is left.
    """
    origin = {
        "files": [_file_identity(path) for path in paths],
        "tokenizer": tokenizer.to_dict(),
        "longest": max_symbols,
    }
    with locked(folder):  # one of several processes encodes
        return _encoded(paths, tokenizer, folder, max_symbols, origin)


def _encoded(
    paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, max_symbols: int, origin: dict[str, Any]
) -> tuple[TextLines, Excluded]:
    record, count = Record(folder / INPUTS, origin), folder / "excluded.json"
    if not (count.is_file() and not record.is_unfinished() and record.difference() is None):
        record.begin()
        lengths, excluded = _write(folder / "tokens.bin", paths, tokenizer, max_symbols)
        if not lengths:
            raise UserError(f"no usable line in {', '.join(map(str, paths))}: {excluded}")
        with atomic_path(folder / "starts.npy") as temporary:
            np.save(temporary, np.concatenate([[0], np.cumsum(lengths)]))
        write_json(count, asdict(excluded))
        record.keep()
    stored = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
    values = json.loads(count.read_text(encoding="utf-8"))
    excluded = Excluded(**values | {"characters": tuple(values["characters"])})
    return TextLines(stored, np.load(folder / "starts.npy")), excluded


def _write(path: Path, paths: Sequence[Path], tokenizer: Tokenizer, max_symbols: int) -> tuple[list[int], Excluded]:
    """Writes the symbols of all usable lines; returns their lengths, and what was excluded."""
    lengths, too_long, unknown, characters = [], 0, 0, Counter[str]()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for line in (line for source in paths for line in read_lines(source)):
            try:
                tokens = tokenizer.encode(line)
            except UserError:
                unknown += 1
                characters.update(_unknown_characters(tokenizer, set(line) - characters.keys()))
                continue
            if len(tokens) > max_symbols:
                too_long += 1
            elif tokens:
                file.write(np.array(tokens, dtype=np.uint16).tobytes())
                lengths.append(len(tokens))
    return lengths, Excluded(too_long, unknown, tuple(sorted(characters)[:MOST_NAMED]))


def _unknown_characters(tokenizer: Tokenizer, characters: Iterable[str]) -> list[str]:
    """The characters that the tokenizer does not know."""
    unknown = []
    for c in characters:
        try:
            tokenizer.encode(c)
        except UserError:
            unknown.append(c)
    return unknown


def read_lines(path: Path) -> Iterator[str]:
    """Non-empty lines of a text file, or the transcripts of a CutSet, in their canonical form.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.is_file():
        raise UserError(f"no text at {path}")
    if ".jsonl" in path.suffixes:
        for cut in read_cuts(path):
            yield from (canonical(s.text) for s in cut.supervisions if s.text and s.text.strip())
        return
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as raw:
            for line in io.TextIOWrapper(raw, encoding="utf-8-sig"):
                if text := canonical(line):
                    yield text
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: not UTF-8
        raise UserError(
            f"cannot read {path}: {error}; it must be UTF-8 text, gzipped if its name ends in .gz"
        ) from error


def plan_text_epoch(lengths: np.ndarray, batch_symbols: int, generator: torch.Generator) -> list[np.ndarray]:
    """Line numbers of each batch of an epoch: random, but similar lengths share a batch.

    Args:
        lengths: symbols of each line.
        batch_symbols: most symbols per batch, padding and line ends included.
        generator: of the epoch.
    """
    order = torch.randperm(len(lengths), generator=generator).numpy()
    pool = max(1, int(POOL * batch_symbols / (lengths.mean() + 1)))
    batches: list[np.ndarray] = []
    for first in range(0, len(order), pool):
        ranked = order[first : first + pool]
        ranked = ranked[np.argsort(lengths[ranked], kind="stable")]
        begin = 0
        for end in range(1, len(ranked) + 1):
            if end == len(ranked) or (end + 1 - begin) * (lengths[ranked[end]] + 1) > batch_symbols:
                batches.append(ranked[begin:end])
                begin = end
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _file_identity(path: Path) -> list[str | int]:
    if not path.is_file():
        raise UserError(f"no text at {path}")
    return [path.name, path.stat().st_size, path.stat().st_mtime_ns]
