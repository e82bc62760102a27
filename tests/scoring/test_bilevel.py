from __future__ import annotations

from pathlib import Path

from asrkit.scoring.bilevel import bilevel_table, plot_bilevel

METRICS = [
    {"epoch": n, "dev_wer": 90.0 / n if n > 1 else None}
    | {"bl_just": {"f": 5.0 / n, "g": 4.0 - n, "gradient_f": 0.1 / n, "gradient_g": 0.01}}
    for n in (1, 2, 3)
]


def test_the_table_has_the_first_and_the_last_epoch() -> None:
    rows = bilevel_table(METRICS).splitlines()
    assert rows[2:] == ["| 1 | 5.000 | 3.000 | 2.000 | 0.1 | 0.01 |", "| 3 | 1.667 | 1.000 | 0.000 | 0.03333 | 0.01 |"]


def test_the_picture_is_written(tmp_path: Path) -> None:
    plot_bilevel(METRICS, tmp_path / "bl_just.png")
    assert (tmp_path / "bl_just.png").read_bytes().startswith(b"\x89PNG")
