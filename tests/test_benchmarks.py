"""The update that the benchmarks of training time."""

from __future__ import annotations

import importlib

import pytest

from tests.conftest import ROOT

BENCHMARKS = ROOT / "tools" / "bench"


@pytest.mark.parametrize("kind", ["conformer", "dssformer"])
def test_the_timed_update_trains(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    training = importlib.import_module("training")
    overrides = [f"model.encoder.type={kind}", "loss.ctc_only_epochs=0"]
    step, parameters = training.training_step(12, "none", overrides, path=ROOT / "tests" / "tiny.yaml")
    assert parameters > 1000
    assert step() == step() == pytest.approx(12 * 0.95, rel=0.02)  # lengths from 90 to 100 %


def test_the_configurations_whose_cost_is_measured_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = importlib.import_module("recipe_cost").CONFIGURATIONS
    assert all((ROOT / "egs" / name.replace("/", "/conf/")).with_suffix(".yaml").is_file() for name in names)
