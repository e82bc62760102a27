"""What several subcommands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from asrkit.config_training import TrainConfig
from asrkit.errors import UserError
from asrkit.files import exclusive
from asrkit.records import INPUTS, Record, is_done

PATH = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(command: Command) -> Command:
    """Adds ``--config FILE`` and trailing ``key=value`` overrides."""
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.option("--config", "config_path", type=PATH, help="The experiment's YAML.")(command)


def processes_option(command: Command) -> Command:
    """Adds ``--processes N``."""
    help = "Processes on this machine."
    return click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help=help)(command)


def already_done(outputs: Sequence[Path], record: Record, force: bool) -> bool:
    """:func:`asrkit.records.is_done`; if not, other processes are locked out of that folder until this one ends.

    Raises:
        UserError: the outputs have other inputs, or another process is working there.
    """
    if is_done(outputs, record, force):
        return True
    name = record.path.name
    lock = ".lock" if name == INPUTS else f".lock-{name.removesuffix(INPUTS).rstrip('.')}"[:80]
    click.get_current_context().with_resource(exclusive(record.path.parent, lock))
    return is_done(outputs, record, force)  # by another process in the meantime


@contextmanager
def exit_if_stopped() -> Iterator[None]:
    """Says that a training stopped by a signal has saved everything, and exits as the signal would."""
    from asrkit.console import log
    from asrkit.training.stopping import Stopped

    try:
        yield
    except Stopped as stop:
        log(f"stopped by {stop}; everything is saved, run the same command to resume")
        raise SystemExit(stop.exit_code) from None


def launch_if_several(
    processes: int, command: Sequence[str | Path], exp_dir: Path, settings: TrainConfig | None = None
) -> None:
    """Runs a subcommand in ``processes`` processes and exits; returns within those, or if there is only one.

    Args:
        processes: how many.
        command: the subcommand and its arguments.
        exp_dir: all but the first log to ``log`` in it.
        settings: of the training.
    """
    if processes == 1 or "RANK" in os.environ:
        return
    from asrkit.distributed.join import is_asynchronous
    from asrkit.distributed.launch import launch

    make_folder(exp_dir / "log")
    restart = settings is not None and is_asynchronous(settings) and settings.super_learner == 1
    words = ["-m", "asrkit", *map(str, command)]
    raise SystemExit(launch(processes, words, exp_dir / "log", restart))


def make_folder(path: Path) -> None:
    """Creates a stage's output folder before the work begins.

    Raises:
        UserError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}; choose another one") from error
