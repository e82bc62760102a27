"""What several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from asrkit.config import Config
from asrkit.config_files import load_config
from asrkit.errors import UserError
from asrkit.training.progress import log

PATH = click.Path(path_type=Path)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--config FILE`` and trailing ``key=value`` overrides."""
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.option("--config", "config_path", type=PATH, help="The experiment's YAML.")(command)


def experiment(config_path: Path | None, overrides: tuple[str, ...]) -> Config:
    """The experiment that ``--config`` and the overrides describe."""
    return load_config(config_path, overrides)


def done_before(paths: list[Path], force: bool, again: str = "--force makes it again") -> bool:
    """Whether a stage's outputs are all there and need not be made again; says so, and what makes them ``again``."""
    if force or not all(path.is_file() for path in paths):
        return False
    log(f"done before: {', '.join(map(str, paths))} ({again})")
    return True


def make_folder(path: Path) -> None:
    """Makes a stage's output folder before the work begins.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}; choose another one") from error
