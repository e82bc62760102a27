"""Each study runs from end to end, on a scale that says nothing, and once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from asrkit.errors import UserError
from asrkit.records import INPUTS
from asrkit.studies import cot_experiments, icl_experiments
from asrkit.studies.claims import Claim, results_page, verdict
from asrkit.studies.suite import run_once


def test_in_context_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 20), ("LENGTHS_TRAINED", (4, 8, 12, 20)), ("TRAINED_STEPS", 5), ("SWEEP_STEPS", 20)):
        monkeypatch.setattr(icl_experiments, name, value)
    monkeypatch.setattr(icl_experiments, "HINGE", 2.0)  # reached at once
    scale = icl_experiments.Scale(
        seeds=2, batch=16, test_prompts=50, sweep_seeds=1, deep_steps=4, deep_seeds=1, classical_prompts=5
    )
    results = icl_experiments.Suite(tmp_path, scale).run()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    page = (tmp_path / "RESULTS.md").read_text()
    assert len(pictures) == 9 and all(f"({name})" in page for name in pictures)
    assert page.count("reproduced") + page.count("partly") >= 10
    assert set(results) > {"dynamics", "scaling"}


def test_chain_of_thought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 40), ("SWEEP_STEPS", 10), ("LENGTHS", (5, 10)), ("LOSS", 1.0)):
        monkeypatch.setattr(cot_experiments, name, value)
    scale = cot_experiments.Scale(seeds=2, queries=20, sweep_seeds=1)
    results = cot_experiments.Suite(tmp_path, scale).run()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    page = (tmp_path / "RESULTS.md").read_text()
    assert len(pictures) == 6 and all(f"({name})" in page for name in pictures)
    assert results["condition"]["holds"] == [False, True] * 5


def test_a_page_says_what_came_out() -> None:
    assert (verdict(True), verdict(False, True), verdict(False)) == ("reproduced", "partly", "not reproduced")
    page = results_page("T", "source", [Claim("c", "m", "partly", "p.png"), Claim("d", "n", "reproduced", "p.png")])
    assert "| c | m | partly | [p.png](p.png) |" in page and page.count("![p.png]") == 1


@dataclass
class Settings:
    """Of a run."""

    steps: int = 3


def test_a_study_runs_once_for_its_settings(tmp_path: Path) -> None:
    runs: list[int] = []

    def run() -> dict[str, object]:
        runs.append(1)
        return {"error": 0.5}

    first = run_once(tmp_path, Settings(), "here", run)
    assert run_once(tmp_path, Settings(), "here", run) == first and first["error"] == 0.5 and len(runs) == 1
    for settings, data in ((Settings(4), "here"), (Settings(), "there")):
        with pytest.raises(UserError, match=r"outputs of (settings|data).*; give another --out-dir"):
            run_once(tmp_path, settings, data, run)
    assert len(runs) == 1
    (tmp_path / INPUTS).unlink()  # as version 0.1 left it
    with pytest.raises(UserError, match=r"outputs of data=here, now it is there"):
        run_once(tmp_path, Settings(), "there", run)
