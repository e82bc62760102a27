from __future__ import annotations

import pytest

from asrkit.training.schedules import warmup_hold_anneal, warmup_hold_decay


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(1, 1e-4), (10, 1e-3), (16, 1e-3), (17, 7.0711e-4), (18, 5e-4), (24, 6.25e-5), (30, 7.8125e-6)],
)
def test_warmup_hold_anneal_is_the_papers(epoch: int, expected: float) -> None:
    lr = warmup_hold_anneal(epoch, initial_lr=1e-4, peak_lr=1e-3, warmup_epochs=9, hold_epochs=7)
    assert lr == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("epochs_done", "expected"), [(0, 5e-5), (4, 2.75e-4), (8, 5e-4), (16, 2.5e-4), (24, 0.0)])
def test_one_cycle_is_the_papers(epochs_done: float, expected: float) -> None:
    lr = warmup_hold_decay(epochs_done, initial_lr=5e-5, peak_lr=5e-4, warmup_epochs=8, hold_epochs=0, num_epochs=24)
    assert lr == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("epochs_done", "expected"), [(0, 1e-4), (1, 5.5e-4), (2, 1e-3), (5, 1e-3), (7.5, 5e-4), (10, 0.0), (11, 0.0)]
)
def test_warmup_hold_decay_has_a_plateau(epochs_done: float, expected: float) -> None:
    lr = warmup_hold_decay(epochs_done, initial_lr=1e-4, peak_lr=1e-3, warmup_epochs=2, hold_epochs=3, num_epochs=10)
    assert lr == pytest.approx(expected, abs=1e-12)
