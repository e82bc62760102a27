"""What several subcommands share."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from asrkit.config import Config
from asrkit.config_files import flat, load_config
from asrkit.errors import UserError
from asrkit.files import write_json
from asrkit.training.progress import log
from asrkit.training.stopping import Stopped

PATH = click.Path(path_type=Path)
MADE_OF = "made_of.json"
UNFINISHED = "unfinished"


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--config FILE`` and trailing ``key=value`` overrides."""
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.option("--config", "config_path", type=PATH, help="The experiment's YAML.")(command)


def experiment(config_path: Path | None, overrides: tuple[str, ...]) -> Config:
    """The experiment that ``--config`` and the overrides describe."""
    return load_config(config_path, overrides)


@dataclass(frozen=True)
class Made:
    """What a stage's outputs were made of, kept beside them: so that what is done is not taken for something else."""

    record: Path
    """The JSON file."""
    of: dict[str, Any]
    """The stage, its settings, and digests of the files that it reads."""

    def keep(self) -> None:
        """Writes the record, once the outputs are there."""
        write_json(self.record, self.of)

    def begin_again(self) -> None:
        """Notes that the outputs are about to be replaced, one by one: a record that was kept no longer holds."""
        if self.record.is_file():
            write_json(self.record, {UNFINISHED: True})

    def holds(self, again: str) -> bool:
        """Whether the outputs that are there are whole; no, where they were begun again and the record not kept since.

        Outputs without a record, settings that either lacks, and lost inputs pass.

        Raises:
            UserError: the outputs were made of something else; the first difference is named.
        """
        if not self.record.is_file():
            return True
        before = flat(json.loads(self.record.read_text(encoding="utf-8")))
        if UNFINISHED in before:
            return False
        now = flat(json.loads(json.dumps(self.of)))
        for key in sorted(before.keys() & now.keys()):
            if before[key] != now[key] and now[key] is not None:
                raise UserError(
                    f"{self.record.parent} holds what was made with {key}={before[key]}, now it is {now[key]}; {again}"
                )
        return True


def digest(path: Path) -> str | None:
    """Tells a file's content from another's; None where none can be read, which the stage says when it reads it."""
    found = hashlib.sha256()
    try:
        # What gzip has packed, since its header holds the time.
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except (OSError, EOFError, zlib.error):
        return None
    return found.hexdigest()[:16]


GO_ON = "a larger train.num_epochs goes on from the last checkpoint, another --exp-dir trains anew"
"""What can be done about a training that is done."""


def done_before(
    paths: list[Path], force: bool, again: str = "--force makes it again", made: Made | None = None
) -> bool:
    """Whether a stage's outputs are all there and need not be made again; says so, and what makes them ``again``.

    Raises:
        UserError: they are there, but of other settings or inputs than ``made``.
    """
    if made and force:
        made.begin_again()
    if force or not all(path.is_file() for path in paths) or (made and not made.holds(again)):
        return False
    log(f"done before: {', '.join(map(str, paths))} ({again})")
    return True


@contextmanager
def told_when_stopped() -> Iterator[None]:
    """Says that a training which a signal stopped has saved everything, and exits as the signal would."""
    try:
        yield
    except Stopped as stop:
        log(f"stopped by {stop}; everything is saved, run the same command to go on")
        raise SystemExit(stop.exit_code) from None


def make_folder(path: Path) -> None:
    """Makes a stage's output folder before the work begins.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}; choose another one") from error
