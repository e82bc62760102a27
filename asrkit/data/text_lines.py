"""Text for language models: encoded once, then read from disk line by line, in any order.

Lines are kept as symbol numbers in one memory-mapped array, so that a text larger than memory can be shuffled
and any step of an epoch can be reached at once.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet

from asrkit.errors import UserError
from asrkit.files import atomic_path, locked, write_json
from asrkit.records import INPUTS, Record
from asrkit.text.tokenizer import Tokenizer

POOL = 100
"""Batches that are sorted by length together."""


@dataclass(frozen=True)
class TextLines:
    """Encoded lines on disk."""

    tokens: np.ndarray
    """All symbols, one line after the other."""
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


def encode_text(paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, max_symbols: int) -> tuple[TextLines, int]:
    """Encodes text files, or takes what an earlier call with the same files and symbols left in ``folder``.

    Args:
        paths: text with one sentence per line (``.gz`` or not), or CutSets (``.jsonl.gz``) whose transcripts are taken.
        tokenizer: symbols.
        folder: where the arrays go.
        max_symbols: longer lines are left out.

    Returns:
        The lines, and how many were left out: too long, or with characters that the tokenizer does not know.

    Raises:
        UserError: a file cannot be read, or no line is left.
    """
    origin = {"files": [_identity(path) for path in paths], "tokenizer": tokenizer.to_dict(), "longest": max_symbols}
    with locked(folder):  # of several processes one encodes
        return _encoded(paths, tokenizer, folder, max_symbols, origin)


def _encoded(
    paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, max_symbols: int, origin: dict[str, Any]
) -> tuple[TextLines, int]:
    record, count = Record(folder / INPUTS, origin), folder / "left_out.json"
    if not (count.is_file() and not record.is_unfinished() and record.difference() is None):
        lengths, left_out = [], 0
        record.begin()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "tokens.bin") as temporary, open(temporary, "wb") as file:
            for line in (line for path in paths for line in read_lines(path)):
                try:
                    tokens = tokenizer.encode(line)
                except UserError:
                    tokens = []
                if not 0 < len(tokens) <= max_symbols:
                    left_out += 1
                    continue
                file.write(np.array(tokens, dtype=np.uint16).tobytes())
                lengths.append(len(tokens))
        if not lengths:
            raise UserError(f"no usable line in {', '.join(map(str, paths))}; is the text of the tokenizer's alphabet?")
        with atomic_path(folder / "starts.npy") as temporary:
            np.save(temporary, np.concatenate([[0], np.cumsum(lengths)]))
        write_json(count, left_out)
        record.keep()
    stored = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
    return TextLines(stored, np.load(folder / "starts.npy")), int(json.loads(count.read_text(encoding="utf-8")))


def read_lines(path: Path) -> Iterator[str]:
    """Non-empty lines of a text file, or the transcripts of a CutSet.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.is_file():
        raise UserError(f"no text at {path}")
    try:
        if ".jsonl" in path.suffixes:
            for cut in CutSet.from_file(path) or ():
                yield from (s.text for s in cut.supervisions if s.text)
            return
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            yield from (line.strip() for line in file if line.strip())
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: not UTF-8, or no JSON
        kind = "cuts, a JSON object a line" if ".jsonl" in path.suffixes else "UTF-8 text"
        raise UserError(f"cannot read {path}: {error}; it must be {kind}, gzipped if its name ends in .gz") from error


def plan_text_epoch(lengths: np.ndarray, batch_symbols: int, generator: torch.Generator) -> list[np.ndarray]:
    """Line numbers of each batch of an epoch: random, but neighbours in length share a batch.

    Args:
        lengths: symbols of each line.
        batch_symbols: most symbols of a batch, padding and line ends included.
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


def _identity(path: Path) -> list[str | int]:
    if not path.is_file():
        raise UserError(f"no text at {path}")
    return [path.name, path.stat().st_size, path.stat().st_mtime_ns]
