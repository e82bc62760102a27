"""The output of a running command: log lines and a progress bar."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False, soft_wrap=True)


def log(message: str) -> None:
    """One line on standard error, with the time of day."""
    console.print(f"{time.strftime('%H:%M:%S')} {message}", markup=False)


class ProgressLine:
    """Advances a progress bar, if there is one."""

    def __init__(self, bar: tuple[Progress, TaskID] | None) -> None:
        self._bar = bar

    def advance(self, status: str = "") -> None:
        """Advances one step and shows a status."""
        if self._bar:
            progress, task = self._bar
            progress.update(task, advance=1, status=status)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0, show: bool = True) -> Iterator[ProgressLine]:
    """A bar on a terminal; elsewhere nothing, as the caller logs its result."""
    if not (show and console.is_terminal):
        yield ProgressLine(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, status="")
        yield ProgressLine((bar, task))
