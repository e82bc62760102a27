"""The list of trainings behind a recipe's rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def evidence(*words: str | Path) -> str:
    command = [sys.executable, ROOT / "tools" / "evidence.py", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_list_names_configurations_that_there_are() -> None:
    for path in (ROOT / "egs").glob("*/evidence.yaml"):
        for line in evidence(path, "--list").splitlines():
            config = line.split("--config ")[1].split()[0]
            assert (ROOT / config).is_file(), line


def test_results_become_tables_with_their_differences(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence.yaml").write_text("rows: {a: {seeds: [1, 2]}, b: {seeds: [1]}}\ncompare: [[a, b]]\n")
    for name, wrong in (("a_s1", 2), ("a_s2", 2), ("b_s1", 1)):
        result = {
            "rows": [[name, "test", "beam", "1", "2", "3", "4", "5", "6", "7", name[-1]]],
            "commit": "c0",
            "processor": "p",
            "precision": "bf16",
            "utterances": {"test_beam": [[10, wrong]] * 20},
        }
        (tmp_path / "evidence" / f"{name}.json").write_text(json.dumps(result))
    states = evidence(tmp_path / "evidence.yaml", "--list").splitlines()
    assert [line.split()[:2] for line in states] == [["done", "a_s1"], ["done", "b_s1"], ["done", "a_s2"]]
    printed = evidence(tmp_path / "evidence.yaml", "--tables")
    assert printed.count("| c0 | p | bf16 |") == 3
    assert "| a | b | test_beam | 20.00, 10.00 | -10.00 | -10.00 – -10.00 | 0.000 | 2, 1 |" in printed
