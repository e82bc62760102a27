"""The numbers are closed forms of the algorithm of Cui et al. 2022 (arXiv 2203.15176)."""

from __future__ import annotations

import pytest
import torch

from asrkit.features.length_perturbation import LengthPerturbation, drop_frames, insert_frames
from tests.features.presentation import presentation

FRAMES = torch.arange(1.0, 2001.0)[:, None].expand(-1, 3)
"""Frame t holds t + 1, so that every frame of the output tells where it came from."""


@pytest.mark.parametrize(("max_run", "kept"), [(7, 0.6603), (3, 0.8120)])
def test_share_of_frames_that_dropping_keeps(max_run: int, kept: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = [len(drop_frames(FRAMES, 0.1, max_run, generator)) / 2000 for _ in range(300)]
    assert sum(ratios) / 300 == pytest.approx(kept, abs=0.003)


@pytest.mark.parametrize(("max_run", "ratio"), [(3, 1.2), (5, 1.3), (7, 1.4)])
def test_ratio_of_length_that_insertion_makes(max_run: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = [len(insert_frames(FRAMES, 0.1, max_run, generator)) / 2000 for _ in range(300)]
    assert sum(ratios) / 300 == pytest.approx(ratio, abs=0.003)


@pytest.mark.parametrize(("probability", "ratio"), [(1.0, 0.7923), (0.7, 0.8689)])
def test_ratio_of_length_of_both(probability: float, ratio: float) -> None:
    perturb = LengthPerturbation(probability, 0.1, 7, probability, 0.1, 3)
    once = presentation(0)
    ratios = [len(perturb(FRAMES, once)[0]) / 2000 for _ in range(2000)]
    assert sum(ratios) / 2000 == pytest.approx(ratio, abs=0.012)


def test_output_is_input_frames_in_order_and_zeros() -> None:
    perturb = LengthPerturbation(1.0, 0.1, 7, 1.0, 0.1, 3)
    for seed in range(20):
        out, hit = perturb(FRAMES, presentation(seed))
        assert hit
        kept = out[out[:, 0] != 0]
        assert (kept[1:, 0] > kept[:-1, 0]).all()
        assert torch.equal(kept, FRAMES[kept[:, 0].long() - 1])
        inserted = len(out) - len(kept)
        assert 0 < inserted <= round(0.1 * len(kept)) * 3


def test_gaps_are_unions_of_runs() -> None:
    out = drop_frames(FRAMES, 0.02, 4, torch.Generator().manual_seed(0))
    gaps = torch.diff(out[:, 0]).long() - 1
    assert gaps.max() >= 4  # runs of 4 occur, and runs that overlap are longer
    single = drop_frames(FRAMES, 1 / 2000, 4, torch.Generator().manual_seed(0))
    assert 1 <= 2000 - len(single) <= 4


def test_runs_are_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(8)
    for _ in range(7000):
        counts[len(insert_frames(FRAMES[:10], 0.1, 7, generator)) - 10] += 1
    assert counts[0] == 0
    chi_square = ((counts[1:] - 1000).square() / 1000).sum()
    assert chi_square < 22.5  # 99.9 % quantile at 6 degrees of freedom


@pytest.mark.parametrize("off", [LengthPerturbation(0, 0.1, 7, 0, 0.1, 3), LengthPerturbation(1, 0, 7, 1, 0, 3)])
def test_probability_or_rate_0_is_the_identity(off: LengthPerturbation) -> None:
    out, hit = off(FRAMES, presentation())
    assert torch.equal(out, FRAMES) and not hit


def test_off_after_its_last_epoch() -> None:
    perturb = LengthPerturbation(1.0, 0.1, 7, 1.0, 0.1, 3, until_epoch=25)
    assert perturb(FRAMES, presentation(epoch=25))[1]
    assert not perturb(FRAMES, presentation(epoch=26))[1]


def test_a_function_of_its_generator() -> None:
    perturb = LengthPerturbation(1.0, 0.1, 7, 1.0, 0.1, 3)
    assert torch.equal(perturb(FRAMES, presentation(1))[0], perturb(FRAMES, presentation(1))[0])
    assert not torch.equal(perturb(FRAMES, presentation(1))[0][:500], perturb(FRAMES, presentation(2))[0][:500])


def test_utterances_stay_long_enough_for_their_labels() -> None:
    perturb = LengthPerturbation(1.0, 0.9, 7, 0.0, 0.1, 3)
    short = FRAMES[:40]
    for seed in range(20):
        out, hit = perturb(short, presentation(seed, min_frames=30))
        assert len(out) >= 30 and hit == (len(out) < 40)
