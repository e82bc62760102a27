"""The inputs of an output, kept next to it, so that finished work is never mistaken for something else."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asrkit.console import log
from asrkit.errors import UserError
from asrkit.files import write_json

INPUTS = "inputs.json"
UNSET = "(unset)"
UNFINISHED = "unfinished"
_OLD_NAME = "made_of.json"
"""What version 0.1 called the file."""


@dataclass(frozen=True)
class Record:
    """What a stage's outputs depend on: its settings, and digests of the files that it reads.

    Inputs that either side lacks, and missing files, count as the same.
    """

    path: Path
    """The JSON file."""
    inputs: Mapping[str, Any]
    """By name, nested where that reads better."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of inputs, by full name, before records held them."""
    complete: bool = False
    """Whether an input that one side lacks is a difference too."""

    def begin(self) -> None:
        """Marks the outputs as unfinished, before the first is written."""
        write_json(self.path, {UNFINISHED: True})

    def keep(self) -> None:
        """Writes the record, once the outputs are complete."""
        write_json(self.path, self.inputs)

    def has(self, name: str) -> bool:
        """Whether the existing record holds an input."""
        return name in self._before()

    def exists(self) -> bool:
        """Whether there is a record of the outputs."""
        return bool(self._before())

    def is_unfinished(self) -> bool:
        """Whether a run that began the outputs did not complete them."""
        return UNFINISHED in self._before()

    def difference(self) -> str | None:
        """The first input that differs from the record's, as ``name=before, now it is after``; None if none does."""
        before = dict(self.defaults) | flat(self._before()) if self._before() else {}
        now = flat(json.loads(json.dumps(self.inputs)))
        if self.complete and before:
            before = dict.fromkeys(now, UNSET) | before
            now = dict.fromkeys(before, UNSET) | now
        for name in sorted(before.keys() & now.keys()):
            if before[name] != now[name] and now[name] is not None:
                was, is_now = (UNSET if values[name] == "" else values[name] for values in (before, now))
                return f"{name}={was}, now it is {is_now}"
        return None

    def is_current(self) -> bool:
        """Whether the existing record holds all inputs, and none differs."""
        return all(map(self.has, self.inputs)) and self.difference() is None

    def require_same(self, remedy: str) -> None:
        """Rejects outputs of other inputs.

        Args:
            remedy: what the user can do about them.

        Raises:
            UserError: an input differs; names the first.
        """
        if difference := self.difference():
            raise UserError(f"{self.path.parent} holds outputs of {difference}; {remedy}")

    def _before(self) -> dict[str, Any]:
        path = self.path
        if not path.is_file():
            path = path.with_name(path.name.replace(INPUTS, _OLD_NAME))
        if not path.is_file():
            return {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}); remove it and run the stage again") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} is no record of inputs; remove it and run the stage again")
        return values


def is_done(outputs: Sequence[Path], record: Record, force: bool, remedy: str = "--force runs it again") -> bool:
    """Whether a stage's outputs all exist and are complete, in which case it says so. Without a record they are not.

    Raises:
        UserError: they exist, but with other inputs.
    """
    if force or not all(path.is_file() for path in outputs) or record.is_unfinished() or not record.exists():
        return False
    record.require_same(remedy)
    log(f"done before: {', '.join(map(str, outputs))} ({remedy})")
    return True


def digest(path: Path) -> str | None:
    """Identifies a file's content; None if it cannot be read, which the stage reports when it reads it."""
    content = hashlib.sha256()
    try:
        # The uncompressed content, since gzip's header holds the time.
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    except (OSError, EOFError, zlib.error):
        return None
    return content.hexdigest()[:16]


def stamp(path: Path) -> str | None:
    """Identifies a version of a file by size and time, without reading it; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_size} bytes of {status.st_mtime_ns}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their full names, such as ``train.num_epochs``."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            named |= flat(value, f"{prefix}{key}.")
        else:
            named[f"{prefix}{key}"] = value
    return named
