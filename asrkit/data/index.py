"""The index of a split: arrays on disk from which an epoch is planned, and its cuts, read one by one.

Ten million utterances need 0.3 GB of memory-mapped arrays, but 16 GB as cuts. A cut is read by the position of its
block in the file (see :func:`asrkit.data.cut_files.write_cuts`) in the process that needs it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from lhotse.cut import Cut

from asrkit.data.cut_files import CUTS_IN_BLOCK, Roots, load_roots, parse_cut, twice, write_lines
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import encode_transcript, frames_needed
from asrkit.errors import UserError
from asrkit.files import atomic_path, locked, write_json
from asrkit.processes import mapping
from asrkit.records import INPUTS, Record, stamp
from asrkit.text.tokenizer import Tokenizer

ARRAYS = {"durations_s": np.float64, "num_tokens": np.int32, "frames_needed": np.int32, "id_hashes": np.int64}
DIGEST = "digest.json"
STARTS = "starts"
"""Array of the positions where the file's blocks begin."""
_MOST_BYTES = CUTS_IN_BLOCK << 22
"""Limit of a block's size."""
_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeError)


class _UnevenBlocks(Exception):
    """A gzip member does not hold :data:`CUTS_IN_BLOCK` lines."""


class CutFile:
    """A file of cuts in blocks that can be read independently.

    Args:
        path: the cuts.
        roots: of the prepared folder that they belong to.
        starts: (blocks,) where each block begins.
    """

    def __init__(self, path: Path, roots: Roots, starts: np.ndarray) -> None:
        self.path, self.roots, self.starts = path, roots, starts
        self._file: int | None = None
        self._block: tuple[int, list[bytes]] = (-1, [])

    def read(self, place: int) -> Cut:
        """The cut on a line, from 0.

        Raises:
            UserError: the file has changed, or the cut is invalid.
        """
        block, line = divmod(place, CUTS_IN_BLOCK)
        if self._block[0] != block:
            self._block = block, self._lines(block)
        return parse_cut(self._block[1][line], self.roots, f"{self.path}:{place + 1}")

    def _lines(self, block: int) -> list[bytes]:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        begin = int(self.starts[block])
        end = int(self.starts[block + 1]) if block + 1 < len(self.starts) else os.fstat(self._file).st_size
        try:
            return gzip.decompress(os.pread(self._file, end - begin, begin)).splitlines()
        except _UNREADABLE as error:
            raise UserError(f"{self.path} has changed since it was indexed ({error}); run asrkit features") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class CutIndex(Sequence[Cut]):
    """The cuts of a split in file order, or of several splits; each is read on demand.

    Args:
        files: of the cuts.
        arrays: by the names of :data:`ARRAYS`, (N,) each.
        places: (N,) lines of the cuts in their files, from 0; None for 0 to N - 1.
        sources: (N,) numbers of their files; None if all are in the first.
    """

    def __init__(
        self,
        files: Sequence[CutFile],
        arrays: Mapping[str, np.ndarray],
        places: np.ndarray | None = None,
        sources: np.ndarray | None = None,
    ) -> None:
        self.files, self.arrays, self.places, self.sources = files, arrays, places, sources

    @property
    def durations_s(self) -> np.ndarray:
        """(N,) seconds."""
        return self.arrays["durations_s"]

    @property
    def num_tokens(self) -> np.ndarray:
        """(N,) labels; 0 for a split that was indexed without a tokenizer."""
        return self.arrays["num_tokens"]

    @property
    def frames_needed(self) -> np.ndarray:
        """(N,) encoder frames that CTC needs for the labels."""
        return self.arrays["frames_needed"]

    def __len__(self) -> int:
        return len(self.durations_s)

    @overload
    def __getitem__(self, number: int) -> Cut: ...
    @overload
    def __getitem__(self, number: slice) -> CutIndex: ...
    def __getitem__(self, number: int | slice) -> Cut | CutIndex:
        if isinstance(number, slice):
            return self.select(np.arange(len(self))[number])
        if not 0 <= number < len(self):
            raise IndexError(number)  # ends an iteration
        file = self.files[0 if self.sources is None else int(self.sources[number])]
        return file.read(number if self.places is None else int(self.places[number]))

    def select(self, numbers: np.ndarray) -> CutIndex:
        """Some of the cuts, in the order of ``numbers``."""
        return CutIndex(
            self.files,
            {name: array[numbers] for name, array in self.arrays.items()},
            numbers if self.places is None else self.places[numbers],
            None if self.sources is None else self.sources[numbers],
        )

    def find(self, ids: Iterable[str]) -> np.ndarray:
        """Numbers of the cuts with these ids, -1 where there is none."""
        hashes = np.array([id_hash(id) for id in ids], dtype=np.int64)
        order = np.argsort(self.arrays["id_hashes"], kind="stable")
        known = self.arrays["id_hashes"][order]
        place = np.searchsorted(known, hashes).clip(max=max(0, len(known) - 1))
        numbers: np.ndarray = np.where(known[place] == hashes, order[place], -1)
        return numbers


def join_indexes(indexes: Sequence[CutIndex]) -> CutIndex:
    """The cuts of several single-file splits, one split after the other.

    Raises:
        UserError: two of them share an id.
    """
    arrays = {name: np.concatenate([index.arrays[name] for index in indexes]) for name in ARRAYS}
    sizes = [len(index) for index in indexes]
    joined = CutIndex(
        [index.files[0] for index in indexes],
        arrays,
        np.concatenate([np.arange(size) for size in sizes]),
        np.repeat(np.arange(len(indexes)), sizes),
    )
    if (number := _repeated(arrays["id_hashes"])) is not None:
        paths = " and ".join(str(file.path) for file in joined.files)
        raise UserError(f"{paths} both have an utterance {joined[number].id}; rename it in one of them")
    return joined


def id_hash(id: str) -> int:
    """A 64-bit hash of an id."""
    return int.from_bytes(
        hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True
    )


def open_index(folder: DataFolder, split: str, tokenizer: Tokenizer | None = None, num_jobs: int = 1) -> CutIndex:
    """The index of a split after the feature stage; it is rebuilt if missing or out of date.

    Args:
        folder: prepared data.
        split: its name.
        tokenizer: counts the labels; None for cuts that are not used for training or have no transcripts.
        num_jobs: processes that read cuts.

    Raises:
        UserError: cuts are missing, damaged or invalid, or the symbols cannot spell a transcript.
    """
    path, where, roots = folder.features(split), folder.index(split), load_roots(folder.path)
    if not path.is_file():
        raise UserError(f"{path} is missing; run asrkit features first")
    inputs = {"cuts": stamp(path)}
    if tokenizer:
        symbols = json.dumps(tokenizer.to_dict(), sort_keys=True).encode()
        inputs["symbols"] = hashlib.sha256(symbols).hexdigest()[:16]
    record = Record(where / INPUTS, inputs)
    if record.is_current():
        try:
            return _load(path, where, roots)
        except (OSError, ValueError, EOFError):  # damaged
            record.begin()
    _rebuild(record, path, where, roots, tokenizer, num_jobs)
    return _load(path, where, roots)


def _load(path: Path, where: Path, roots: Roots) -> CutIndex:
    arrays = {name: np.load(where / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return CutIndex([CutFile(path, roots, np.load(where / f"{STARTS}.npy"))], arrays)


def _rebuild(record: Record, path: Path, where: Path, roots: Roots, tokenizer: Tokenizer | None, num_jobs: int) -> None:
    with locked(where):  # one of several processes rebuilds
        if not record.is_current():
            record.begin()
            try:
                _write_index(path, where, roots, tokenizer, num_jobs)
            except _UnevenBlocks:  # from an earlier version or another program
                with gzip.open(path, "rb") as lines:
                    write_lines(path, (line.rstrip(b"\n") + b"\n" for line in lines if line.strip()))
                _write_index(path, where, roots, tokenizer, num_jobs)
            replace(record, inputs={**record.inputs, "cuts": stamp(path)}).keep()


def durations_of(cuts: Sequence[Cut]) -> np.ndarray:
    """(N,) durations in seconds, without reading an index's cuts."""
    return cuts.durations_s if isinstance(cuts, CutIndex) else np.array([cut.duration for cut in cuts], np.float64)


def digest_of_cuts(folder: DataFolder, split: str) -> str | None:
    """Identifies the content of a split, regardless of its stored features, whose names are random.

    It is read from the index if that is current. None if the cuts cannot be read, which a later stage reports.
    """
    path, where = folder.features(split), folder.index(split)
    try:
        if json.loads((where / INPUTS).read_text(encoding="utf-8")).get("cuts") == stamp(path):
            return str(json.loads((where / DIGEST).read_text(encoding="utf-8"))["cuts"])
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # no index, or an incomplete one
    content = hashlib.sha256()
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                content.update(_comparable(json.loads(line)))
    except (*_UNREADABLE, ValueError, AttributeError):
        return None
    return content.hexdigest()[:16]


def _comparable(values: dict[str, Any]) -> bytes:
    """A cut without its stored features."""
    return json.dumps({k: v for k, v in values.items() if k != "features"}, sort_keys=True).encode()


def _write_index(path: Path, where: Path, roots: Roots, tokenizer: Tokenizer | None, num_jobs: int) -> None:
    """Reads all cuts once, and writes the arrays."""
    starts: list[int] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    content = hashlib.sha256()
    read = partial(_rows, path=path, roots=roots, tokenizer=tokenizer)
    try:
        with mapping(num_jobs, chunksize=16) as run:
            for start, rows, comparable in run(read, _numbered_blocks(path)):
                starts.append(start)
                content.update(comparable)
                for name in ARRAYS:
                    columns[name].append(rows[name])
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run asrkit features again") from error
    if not starts:
        raise UserError(f"{path} holds no cuts; remove it and run asrkit features again")
    arrays = {name: np.concatenate(columns[name]) for name in ARRAYS}
    if (number := _repeated(arrays["id_hashes"])) is not None:
        id = CutFile(path, roots, np.array(starts)).read(number).id
        raise UserError(f"{path}:{number + 1}: this is not a usable cut: {twice(id)}")
    for name, array in (arrays | {STARTS: np.array(starts, dtype=np.int64)}).items():
        with atomic_path(where / f"{name}.npy") as temporary:
            np.save(temporary, array)
    write_json(where / DIGEST, {"cuts": content.hexdigest()[:16]})


def _rows(
    numbered: tuple[int, int, bytes], path: Path, roots: Roots, tokenizer: Tokenizer | None
) -> tuple[int, dict[str, np.ndarray], bytes]:
    """A block's start, its rows in the index, and the bytes to digest."""
    start, first, lines = numbered
    rows: list[tuple[float, int, int, int]] = []
    comparable: list[bytes] = []
    for number, line in enumerate(lines.splitlines(), first):
        cut = parse_cut(line, roots, f"{path}:{number}")
        labels = encode_transcript(tokenizer, cut) if tokenizer else []
        rows.append((cut.duration, len(labels), frames_needed(labels), id_hash(cut.id)))
        comparable.append(_comparable(json.loads(line)))
    columns = zip(ARRAYS.items(), zip(*rows, strict=True), strict=True)
    return start, {name: np.array(column, dtype=kind) for (name, kind), column in columns}, b"".join(comparable)


def _repeated(hashes: np.ndarray) -> int | None:
    """The number of a repeated id, None if all differ."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    return int(order[same[0] + 1]) if len(same) else None


def _numbered_blocks(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The blocks of a file: the start of each, the number of its first line from 1, and its lines.

    Raises:
        _UnevenBlocks: a block other than the last has too few or too many lines.
    """
    previous = CUTS_IN_BLOCK
    for number, (start, lines) in enumerate(_blocks(path, _MOST_BYTES)):
        num_lines = len(lines.splitlines())
        if previous != CUTS_IN_BLOCK or num_lines > CUTS_IN_BLOCK or b"\n\n" in lines:
            raise _UnevenBlocks
        previous = num_lines
        yield start, number * CUTS_IN_BLOCK + 1, lines


def _blocks(path: Path, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The gzip members of a file: the start and the content of each.

    Raises:
        _UnevenBlocks: one is larger than ``most_bytes``.
        EOFError: the last one is cut off.
        zlib.error, OSError: the file is damaged.
    """
    with open(path, "rb") as file:
        start, used, rest = 0, 0, b""
        unpacked: list[bytes] = []
        member = zlib.decompressobj(wbits=31)
        while chunk := rest or file.read(1 << 20):
            unpacked.append(member.decompress(chunk))
            rest = member.unused_data
            used += len(chunk) - len(rest)
            if sum(map(len, unpacked)) > most_bytes:
                raise _UnevenBlocks
            if member.eof:
                yield start, b"".join(unpacked)
                start, used = start + used, 0
                unpacked, member = [], zlib.decompressobj(wbits=31)
        if used:
            raise EOFError("it ends within a block")
