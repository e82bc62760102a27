from __future__ import annotations

import numpy as np
import pytest
import torch
from lhotse.testing.dummies import dummy_cut

from asrkit.features.augmentation import Presentation
from asrkit.features.sequence_noise import NEIGHBOURS, SequenceNoise

CUTS = [dummy_cut(i, duration=1.0 + i / 100) for i in range(300)]


def noise(probability: float = 1.0) -> SequenceNoise:
    """The features of cut i are its duration, everywhere, over a frame for each 10 ms."""
    durations_s = np.array([cut.duration for cut in CUTS])
    return SequenceNoise(
        CUTS, durations_s, lambda cut: torch.full((round(100 * cut.duration), 4), cut.duration), probability, 0.4
    )


def present(i: int, seed: int) -> Presentation:
    return Presentation(CUTS[i], 1, 0, torch.Generator().manual_seed(seed))


def test_adds_the_scaled_features_of_another_utterance_of_similar_length() -> None:
    x = torch.zeros(250, 4)
    others = set()
    for seed in range(200):
        out, hit = noise()(x, present(150, seed))
        assert hit and out.shape == x.shape and x.abs().sum() == 0
        duration_s = out[0, 0].item() / 0.4
        frames = min(250, round(100 * duration_s))
        assert torch.allclose(out[:frames], torch.full((frames, 4), 0.4 * duration_s)) and out[frames:].abs().sum() == 0
        others.add(round(100 * duration_s) - 100)
    assert 150 not in others and len(others) > 40
    assert all(abs(i - 150) <= NEIGHBOURS // 2 + 1 for i in others)


@pytest.mark.parametrize("i", [0, 299])
def test_the_shortest_and_the_longest_have_neighbours_too(i: int) -> None:
    assert all(noise()(torch.zeros(100, 4), present(i, seed))[1] for seed in range(20))


def test_hits_as_often_as_asked() -> None:
    some = noise(0.8)
    hits = sum(some(torch.zeros(100, 4), present(5, seed))[1] for seed in range(2000))
    assert hits / 2000 == pytest.approx(0.8, abs=0.03)
