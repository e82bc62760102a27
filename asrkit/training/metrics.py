"""Metrics for people to look at: metrics.jsonl and TensorBoard scalars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asrkit.files import write_text
from asrkit.scoring.experiment import read_metrics


class MetricsFile:
    """``metrics.jsonl`` (one line per epoch) and the TensorBoard scalars of the same values."""

    def __init__(self, exp_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, only needed in training

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

    def step(self, values: dict[str, Any], step: int) -> None:
        """Scalars of one update, only for TensorBoard."""
        self._scalars("step", values, step)

    def _scalars(self, group: str, values: dict[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                self._scalars(f"{group}/{name}", value, step)
            elif value is not None:
                self.board.add_scalar(f"{group}/{name}", value, step)
