"""What several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from asrkit.config import Config
from asrkit.config_files import load_config
from asrkit.training.progress import log

PATH = click.Path(path_type=Path)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--config FILE`` and trailing ``key=value`` overrides."""
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    return click.option("--config", "config_path", type=PATH, help="The experiment's YAML.")(command)


def experiment(config_path: Path | None, overrides: tuple[str, ...]) -> Config:
    """The experiment that ``--config`` and the overrides describe."""
    return load_config(config_path, overrides)


def done_before(paths: list[Path], force: bool) -> bool:
    """Whether a stage's outputs are all there and need not be made again; says so."""
    if force or not all(path.exists() for path in paths):
        return False
    log(f"done before: {', '.join(map(str, paths))} (--force makes it again)")
    return True
