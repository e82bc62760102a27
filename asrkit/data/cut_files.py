"""Cuts on disk: Lhotse's JSON lines with relocatable paths, restricted to data that runs no code.

A prepared folder holds paths relative to itself (``features/train_numpy``) or to the folder of its corpus
(``@0/wav/x.wav``); ``roots.json`` says where corpus 0 is, as a path from the prepared folder and as an absolute one.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from asrkit.errors import UserError, shown
from asrkit.files import atomic_path, write_text

ROOTS = "roots.json"
CUTS_IN_BLOCK = 16
"""Cuts that are compressed together: reading one decompresses this many."""
_KINDS = ("MonoCut", "MultiCut")
_TRANSFORMS = ("Speed",)
_BAD = (KeyError, TypeError, ValueError, AttributeError, AssertionError, IndexError, RecursionError)
"""Lhotse's exceptions for an invalid cut."""


@dataclass(frozen=True)
class Roots:
    """Where the files of a prepared folder's cuts are."""

    data_dir: Path
    corpora: Sequence[Path] = ()
    """The absolute folders of ``@0``, ``@1`` …"""

    def short(self, path: str) -> str:
        """A path as the prepared folder stores it."""
        for number, root in enumerate(self.corpora):
            if path.startswith(f"{root}/"):
                return f"@{number}{path.removeprefix(str(root))}"
        for data_dir in self.own:
            if path.startswith(f"{data_dir}/"):
                return path.removeprefix(f"{data_dir}/")
        return path

    @property
    def own(self) -> tuple[str, str]:
        """The prepared folder, as given and with links resolved."""
        return os.path.abspath(self.data_dir), str(self.data_dir.resolve())

    def full(self, path: str) -> str:
        """The inverse of :meth:`short`."""
        if path.startswith("@"):
            number, _, rest = path[1:].partition("/")
            if not number.isdigit() or int(number) >= len(self.corpora):
                raise ValueError(f"'{shown(path)}' names a corpus that {ROOTS} does not")
            return str(self.corpora[int(number)] / rest)
        return path if os.path.isabs(path) else os.path.abspath(self.data_dir / path)

    def save(self) -> None:
        """Writes ``roots.json``, unless it is current."""
        data_dir = os.path.abspath(self.data_dir)
        rows = [{"relative": os.path.relpath(root, data_dir), "absolute": str(root)} for root in self.corpora]
        path, text = self.data_dir / ROOTS, json.dumps(rows, indent=2) + "\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)


def load_roots(data_dir: Path) -> Roots:
    """The roots in a prepared folder's ``roots.json``: by relative path, or by the absolute one if only that exists.

    Raises:
        UserError: the file cannot be read.
    """
    path = data_dir / ROOTS
    if not path.is_file():
        return Roots(data_dir)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        roots = [(Path(os.path.abspath(data_dir / row["relative"])), Path(row["absolute"])) for row in rows]
    except _BAD as error:
        raise UserError(f"{path} cannot be read ({error}); run asrkit prepare --force") from error
    return Roots(
        data_dir,
        [absolute if absolute.is_dir() and not relative.is_dir() else relative for relative, absolute in roots],
    )


def write_cuts(path: Path, cuts: Iterable[Cut], roots: Roots) -> None:
    """Writes cuts atomically, with short paths; the same cuts give the same bytes.

    Every :data:`CUTS_IN_BLOCK` cuts form a gzip member: any reader sees one gzip file, and
    :mod:`asrkit.data.index` reads a single cut without those before it.
    """
    short = cache(roots.short)
    write_lines(path, (_line(cut, short) for cut in cuts))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Writes lines, each with its line break, as gzip members of :data:`CUTS_IN_BLOCK` lines."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        remaining = iter(lines)
        while block := b"".join(islice(remaining, CUTS_IN_BLOCK)):
            file.write(gzip.compress(block, compresslevel=1, mtime=0))  # no name or time in its header


def _line(cut: Cut, short: Callable[[str], str]) -> bytes:
    values = as_dict(cut)
    for source in values.get("recording", {}).get("sources", ()):
        source["source"] = short(source["source"])
    if "features" in values:
        values["features"]["storage_path"] = short(values["features"]["storage_path"])
    return (json.dumps(values) + "\n").encode()


def as_dict(cut: Cut) -> dict[str, Any]:
    """Like ``cut.to_dict()``, which copies every value and takes longer than reading the audio."""
    plain = (str, int, float, bool, dict, list)
    custom = [
        *(cut.custom or {}).values(),
        *(v for supervision in cut.supervisions for v in (supervision.custom or {}).values()),
    ]
    if any(supervision.alignment for supervision in cut.supervisions) or not all(
        isinstance(value, plain) for value in custom
    ):
        return dict(cut.to_dict())
    values = _fields(cut) | {"type": type(cut).__name__}
    values["supervisions"] = [_fields(supervision) for supervision in cut.supervisions]
    if cut.has_recording:
        recording = cut.recording
        values["recording"] = _fields(recording) | {"sources": [_fields(source) for source in recording.sources]}
        if recording.transforms is not None:
            values["recording"]["transforms"] = [
                t if isinstance(t, dict) else t.to_dict() for t in recording.transforms
            ]
    if cut.has_features:
        values["features"] = _fields(cut.features)
    return values


def _fields(item: object) -> dict[str, Any]:
    return {name: value for name, value in vars(item).items() if value is not None}


def read_cuts(path: Path, roots: Roots | None = None, stage: str = "") -> CutSet:
    """A CutSet, in memory.

    Args:
        path: JSON lines, gzipped if named ``.gz``.
        roots: of the prepared folder that it belongs to; None leaves paths as they are.
        stage: the command that wrote it, for messages; empty for a user's own file.

    Raises:
        UserError: the file is missing, cannot be read, or has no cuts or an invalid one.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing" + (f"; run {stage} first" if stage else ""))
    again = f"; remove it and run {stage} again" if stage else ""
    try:
        cuts = list(_cuts(path, roots))
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise UserError(f"{path} cannot be read ({error}){again}") from error
    if not cuts:
        raise UserError(f"{path} holds no cuts{again}")
    return CutSet.from_cuts(cuts)


def _cuts(path: Path, roots: Roots | None) -> Iterator[Cut]:
    seen: set[str] = set()
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            cut = parse_cut(line, roots, f"{path}:{number}")
            if cut.id in seen:
                raise UserError(f"{path}:{number}: this is not a usable cut: {twice(cut.id)}")
            seen.add(cut.id)
            yield cut


def twice(id: str) -> str:
    """The error message for an id that a file holds twice."""
    return f"the id {shown(id)} is there twice"


def parse_cut(line: bytes, roots: Roots | None, where: str) -> Cut:
    """Parses a line of a CutSet file.

    Raises:
        UserError: an invalid cut, or one without audio or features in a file; ``where`` names the line.
    """
    try:
        values = json.loads(line)
        _require_data(values, roots)
        cut: Cut = deserialize_item(values)
        _require_valid(cut)
    except _BAD as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else shown(str(error)[:200])
        raise UserError(f"{where}: this is not a usable cut: {reason}") from error
    return cut


def _require_data(values: Any, roots: Roots | None) -> None:
    """Rejects commands, URLs and ids with control characters, and expands paths."""
    if not isinstance(values, dict) or values.get("type") not in _KINDS:
        kind = values.get("type") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"it is of type {kind}, not {' or '.join(_KINDS)}")
    supervision_ids = [part["id"] for part in values.get("supervisions", ())]
    for id in (values["id"], *supervision_ids):
        if not isinstance(id, str) or not id or not id.isprintable():
            raise ValueError(f"'{id}' cannot be an id")
    for source in values.get("recording", {}).get("sources", ()):
        if source["type"] != "file" or not isinstance(source["source"], str) or "\0" in source["source"]:
            raise ValueError(f"its audio is of type '{source['type']}'; only files are read")
        source["source"] = roots.full(source["source"]) if roots else source["source"]
    for transform in values.get("recording", {}).get("transforms") or ():
        if transform["name"] not in _TRANSFORMS:
            raise ValueError(f"its audio is changed by {transform['name']}; only {', '.join(_TRANSFORMS)} is known")
    if "features" in values:
        features = values["features"]
        if features["storage_type"] != "numpy_files":
            raise ValueError(f"its features are stored as {features['storage_type']}; only numpy_files is read")
        if roots:
            folder = Path(roots.full(features["storage_path"]))
            inside = Path(os.path.abspath(folder / features["storage_key"]))
            if not any(inside.is_relative_to(own) for own in roots.own):
                raise ValueError("its features lie outside the prepared folder")
            features["storage_path"] = str(folder)


def _require_valid(cut: Cut) -> None:
    if not (math.isfinite(cut.start) and math.isfinite(cut.duration) and cut.start >= 0 and cut.duration > 0):
        raise ValueError(f"it lasts from {cut.start} s for {cut.duration} s")
    if not (cut.has_recording or cut.has_features):
        raise ValueError("it has neither audio nor features")
    for supervision in cut.supervisions:
        if supervision.text is not None and not isinstance(supervision.text, str):
            raise ValueError(f"its transcript is of type {type(supervision.text).__name__}")
