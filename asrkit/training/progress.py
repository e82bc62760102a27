"""What people see of a training: a progress bar or log lines, TensorBoard scalars, metrics.jsonl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asrkit.files import write_text

console = Console(stderr=True, highlight=False, soft_wrap=True)


def log(message: str) -> None:
    """One line on standard error, with the time of day."""
    console.print(f"{time.strftime('%H:%M:%S')} {message}", markup=False)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0, show: bool = True) -> Iterator[ProgressLine]:
    """A bar on a terminal; on anything else, nothing (whoever calls it logs its result)."""
    if not (show and console.is_terminal):
        yield ProgressLine(None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, status="")
        yield ProgressLine((bar, task))


class ProgressLine:
    """Moves a progress bar, where there is one."""

    def __init__(self, bar: tuple[Progress, Any] | None) -> None:
        self._bar = bar

    def advance(self, status: str = "") -> None:
        """One step further, with a word on how it goes."""
        if self._bar:
            progress, task = self._bar
            progress.update(task, advance=1, status=status)


class MetricsFile:
    """``metrics.jsonl`` (a line an epoch) and the TensorBoard scalars of the same values."""

    def __init__(self, exp_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed in training alone

        self.path = exp_dir / "metrics.jsonl"
        self.board = SummaryWriter(str(exp_dir / "tensorboard"))

    def rewind(self, epoch: int) -> None:
        """Drops lines of ``epoch`` and later, which a resumed run writes again."""
        kept = [line for line in read_metrics(self.path) if line["epoch"] < epoch]
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def epoch(self, values: dict[str, Any]) -> None:
        """Adds an epoch's line; ``values`` holds ``epoch`` and plain numbers or dictionaries of them."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._scalars("epoch", values, values["epoch"])
        self.board.flush()

    def close(self) -> None:
        """Writes what TensorBoard has not written yet."""
        self.board.close()

    def step(self, values: dict[str, float], step: int) -> None:
        """Scalars of one update, for TensorBoard alone."""
        self._scalars("step", values, step)

    def _scalars(self, group: str, values: dict[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                self._scalars(f"{group}/{name}", value, step)
            elif value is not None:
                self.board.add_scalar(f"{group}/{name}", value, step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line cut off by a kill is left out."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                print(f"{path}: a line that was cut off is left out", file=sys.stderr)
    return lines
