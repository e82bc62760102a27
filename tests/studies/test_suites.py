"""Each study runs from end to end, on a scale that says nothing, and is not run twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrkit.studies import cot_experiments, icl_experiments
from asrkit.studies.claims import Claim, results_page, verdict


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
    assert icl_experiments.run_icl(tmp_path, full=False)["scaling"] == _as_json(results["scaling"])


def test_chain_of_thought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 40), ("SWEEP_STEPS", 10), ("LENGTHS", (5, 10)), ("LOSS", 1.0)):
        monkeypatch.setattr(cot_experiments, name, value)
    scale = cot_experiments.Scale(seeds=2, queries=20, sweep_seeds=1)
    results = cot_experiments.Suite(tmp_path, scale).run()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    page = (tmp_path / "RESULTS.md").read_text()
    assert len(pictures) == 6 and all(f"({name})" in page for name in pictures)
    assert results["condition"]["holds"] == [False, True] * 5
    assert cot_experiments.run_cot(tmp_path, full=False)["condition"]["tau"] == results["condition"]["tau"]


def test_a_page_says_what_came_out() -> None:
    assert (verdict(True), verdict(False, True), verdict(False)) == ("reproduced", "partly", "not reproduced")
    page = results_page("T", "source", [Claim("c", "m", "partly", "p.png"), Claim("d", "n", "reproduced", "p.png")])
    assert "| c | m | partly | [p.png](p.png) |" in page and page.count("![p.png]") == 1


def _as_json(values: dict[str, object]) -> dict[str, object]:
    """Tuples become lists on their way through a file."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
