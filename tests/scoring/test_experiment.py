"""Files in an experiment folder that other programs have changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrkit.errors import UserError
from asrkit.scoring.experiment import read_metrics
from asrkit.scoring.report import read_score_file

LINE = {"epoch": 1, "updates": 10, "seconds": 2.5, "lr": 1e-3, "loss": {"loss": 3.0}}
RATES = {"rate": 20.0, "substitutions": 1, "deletions": 0, "insertions": 1, "interval_95": [10.0, 30.0]}
SCORES = {"wer": RATES, "cer": RATES, "subsets": {"clean": {"wer": RATES, "cer": RATES}}}


@pytest.mark.parametrize("line", [b'{"epoch": 2', b"null", b"[1]", b'{"epoch": "x"}', b"\xff\xfe", b""])
def test_lines_that_are_no_metrics_are_left_out_and_named(
    line: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([json.dumps(LINE).encode(), line, json.dumps(LINE | {"epoch": 2}).encode()]))
    assert [found["epoch"] for found in read_metrics(path)] == [1, 2]
    assert f"{path}:2: not the metrics of an epoch" in capsys.readouterr().err


def test_without_a_file_there_are_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        {"wer": "x", "cer": RATES},
        {"wer": RATES | {"rate": "20"}, "cer": RATES},
        {"wer": RATES | {"interval_95": [1.0]}, "cer": RATES},
        SCORES | {"subsets": {"clean": {}}},
        SCORES | {"subsets": []},
    ],
)
def test_scores_without_rates_are_refused(values: object, tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    path.write_text(json.dumps(SCORES))
    assert read_score_file(path) == SCORES
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="run asrkit score --force"):
        read_score_file(path)
    path.write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        read_score_file(path)
