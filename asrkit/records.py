"""Records of a stage's inputs next to its outputs, so that outputs of other inputs are not reused."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
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
"""The file's name in version 0.1."""


@dataclass(frozen=True)
class Record:
    """The inputs of a stage's outputs: its settings, and digests of the files that it reads.

    Inputs that one side lacks and missing files count as equal.
    """

    path: Path
    """The JSON file."""
    inputs: Mapping[str, Any]
    """By name; may be nested."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """By full name, the values of inputs that older records do not contain."""
    complete: bool = False
    """Whether an input that one side lacks counts as a difference."""

    def begin(self) -> None:
        """Marks the outputs as unfinished before the first is written."""
        write_json(self.path, {UNFINISHED: True})

    def keep(self) -> None:
        """Writes the record when the outputs are complete."""
        write_json(self.path, self.inputs)

    def has(self, name: str) -> bool:
        """Whether the existing record holds an input."""
        return name in self._before()

    def exists(self) -> bool:
        """Whether there is a record of the outputs."""
        return bool(self._before())

    def is_unfinished(self) -> bool:
        """Whether a run has begun the outputs but not completed them."""
        return UNFINISHED in self._before()

    def difference(self) -> str | None:
        """The first input that differs from the record, as ``name=before, now it is after``; None if none does."""
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
        """Whether the existing record holds all inputs with the same values."""
        return all(map(self.has, self.inputs)) and self.difference() is None

    def require_same(self, remedy: str) -> None:
        """Rejects outputs of other inputs.

        Args:
            remedy: advice for the user.

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


def again(result: str = "runs it again") -> str:
    """What makes a stage run again, for messages: ``run.sh`` has another option for it than its commands."""
    return f"{os.environ.get('ASRKIT_FORCE_OPTION', '--force')} {result}"


def is_done(outputs: Sequence[Path], record: Record, force: bool, remedy: str = "") -> bool:
    """Whether a stage's outputs all exist and are complete, which is logged. Without a record they are incomplete.

    Raises:
        UserError: they exist with other inputs.
    """
    if force or not all(path.is_file() for path in outputs) or record.is_unfinished() or not record.exists():
        return False
    remedy = remedy or again()
    record.require_same(remedy)
    log(f"done before: {', '.join(map(str, outputs))} ({remedy})")
    return True


def digest(path: Path) -> str | None:
    """Identifies a file's content; None if it cannot be read, which the stage that reads it reports."""
    content = hashlib.sha256()
    try:
        if not path.is_file():  # reading a FIFO would wait, and take what its reader needs
            return None
        # The uncompressed content, as gzip's header contains the time.
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
