from __future__ import annotations

from pathlib import Path
from typing import Any

from asrkit.scoring.learners import learners_table, plot_learners

METRICS: list[dict[str, Any]] = [
    {"epoch": n, "updates": 5, "seconds": 20.0}
    | {"learners": {"weight_spread": 0.1 / n, "mixing_s": 0.5, "staleness": 3.0, "most_stale": 7}}
    for n in (1, 2)
]


def test_the_table_has_the_first_and_the_last_epoch() -> None:
    METRICS[1]["learners"]["updates"] = {"0": 3, "1": 7}
    rows = learners_table(METRICS).splitlines()
    assert rows[2:] == [
        "| 1 | 0.1 | - | - | - | - | 3.00 | 2.5% | 5 to 5 |",
        "| 2 | 0.05 | - | - | - | - | 3.00 | 2.5% | 3 to 7 |",
    ]
    METRICS[1]["learners"] |= {"effective_lr": 0.875, "noise": 4e-4, "noise_of_batches": 3e-4, "noise_of_spread": 1e-4}
    assert learners_table(METRICS).splitlines()[3].startswith("| 2 | 0.05 | 0.875 | 0.0004 | 0.0003 | 0.0001 | 3.00 |")


def test_the_picture_is_written(tmp_path: Path) -> None:
    plot_learners(METRICS, tmp_path / "learners.png")
    assert (tmp_path / "learners.png").read_bytes().startswith(b"\x89PNG")
