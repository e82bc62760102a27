"""The update that the benchmarks of training time."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.conftest import ROOT


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a script of tools/bench."""
    monkeypatch.syspath_prepend(ROOT / "tools" / "bench")
    return importlib.import_module


@pytest.mark.parametrize("kind", ["conformer", "dssformer"])
def test_the_timed_update_trains(kind: str, benchmarks: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    step_of = torch.optim.AdamW.step

    def step_and_compare(optimizer: torch.optim.AdamW) -> None:
        before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
        step_of(optimizer)
        after = [p for group in optimizer.param_groups for p in group["params"]]
        updates.append(sum(not torch.equal(x, y) for x, y in zip(before, after, strict=True)))

    monkeypatch.setattr(torch.optim.AdamW, "step", step_and_compare)
    training = benchmarks("training")
    overrides = [f"model.encoder.type={kind}", "loss.ctc_only_epochs=0"]
    step, parameters = training.training_step(12, "none", overrides, path=ROOT / "tests" / "tiny.yaml")
    assert parameters > 1000
    assert step() == step() == pytest.approx(12 * 0.95, rel=0.02)  # lengths from 90 to 100 %
    assert min(updates) > 20


def test_recipes_state_the_speech_that_they_train_on(benchmarks: Callable[[str], Any]) -> None:
    cost = benchmarks("recipe_cost")
    for name in cost.CONFIGURATIONS:
        readme = (ROOT / "egs" / name.split("/")[0] / "README.md").read_text()
        assert f"{cost.hours_of_speech(name):,.0f} hours of speech" in readme
