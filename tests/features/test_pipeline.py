from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lhotse import CutSet
from lhotse.audio.backend import get_current_audio_backend

from asrkit.errors import UserError
from asrkit.features.audio_files import resample
from asrkit.features.normalization import GLOBAL, Moments, accumulate_statistics
from asrkit.features.pipeline import FeaturePipeline, load_audio, speaker_of
from asrkit.features.spec_augment import SpecAugment
from asrkit.randomness import seeded_generator
from tests.features.presentation import presentation

MASKS = SpecAugment(1.0, 2, 5, 2, 10, 0.5)


def test_statistics_normalize_to_mean_0_and_deviation_1() -> None:
    torch.manual_seed(0)
    of_a, of_b, more_of_a = torch.randn(50, 4) * 3 + 2, torch.randn(70, 4) - 5, torch.randn(30, 4)
    groups = [("speaker:a", of_a), ("speaker:b", of_b), ("speaker:a", more_of_a)]
    statistics = accumulate_statistics((name, Moments.of(x)) for name, x in groups)
    everything = torch.cat([x for _, x in groups])
    for name, x in ((GLOBAL, everything), ("speaker:a", torch.cat([of_a, more_of_a]))):
        normal = statistics[name].apply(x)
        assert normal.mean(0).abs().max() < 1e-5
        assert (normal.std(0, unbiased=False) - 1).abs().max() < 1e-5


def test_speaker_normalization_falls_back_to_the_utterance(an4_cuts: CutSet) -> None:
    cuts = list(an4_cuts.subset(first=4))
    raw = FeaturePipeline(num_mel_bins=16, normalization="none")
    statistics = accumulate_statistics((f"speaker:{speaker_of(cut)}", Moments.of(raw.raw(cut))) for cut in cuts)
    pipeline = FeaturePipeline(num_mel_bins=16, normalization="speaker", statistics=statistics)
    known = pipeline.normalize(raw.raw(cuts[0]), speaker_of(cuts[0]))
    unknown = pipeline.normalize(raw.raw(cuts[0]), "somebody else")
    assert torch.equal(known, statistics[f"speaker:{speaker_of(cuts[0])}"].apply(raw.raw(cuts[0])))
    assert unknown.mean(0).abs().max() < 1e-4 and not torch.allclose(known, unknown)


def test_spec_augment_masks_whole_bands_and_frames_and_nothing_else() -> None:
    x = torch.rand(100, 16) + 1
    masked, hit = MASKS(x, presentation(3))
    assert hit
    zero = masked == 0
    rows, columns = zero.all(1), zero.all(0)
    assert torch.equal(zero, rows[:, None] | columns[None, :])
    assert 0 < columns.sum() <= 10 and 0 < rows.sum() <= 20
    assert torch.equal(masked[~zero], x[~zero])


def test_spec_augment_hits_as_often_as_asked() -> None:
    augment = SpecAugment(0.3, 1, 5, 1, 10, 0.5)
    once = presentation(0)
    hits = sum(augment(torch.ones(20, 8), once)[1] for _ in range(2000))
    assert abs(hits / 2000 - 0.3) < 0.03
    late = SpecAugment(1.0, 1, 5, 1, 10, 0.5, from_epoch=3)
    assert [late(torch.ones(20, 8), replace(once, epoch=epoch))[1] for epoch in (1, 2, 3, 4)] == [
        False,
        False,
        True,
        True,
    ]


def test_augmentation_is_a_function_of_seed_epoch_and_utterance(an4_cuts: CutSet) -> None:
    cut = next(iter(an4_cuts))
    pipeline = FeaturePipeline(num_mel_bins=16, normalization="none", augmentations={"spec_augment": MASKS})
    first, applied = pipeline(cut, seed=1, epoch=1)
    assert applied == ["spec_augment"]
    assert torch.equal(first, pipeline(cut, seed=1, epoch=1)[0])
    assert not torch.equal(first, pipeline(cut, seed=1, epoch=2)[0])
    clean, applied = pipeline(cut, seed=1)
    assert applied == [] and torch.equal(clean, pipeline.raw(cut))


def test_generators_differ_by_every_part() -> None:
    seeds = {seeded_generator(*parts).initial_seed() for parts in [(1, 2, "a"), (1, 2, "b"), (2, 1, "a"), (12, "a")]}
    assert len(seeds) == 4


def test_another_sampling_rate_is_resampled(an4_cuts: CutSet) -> None:
    cut = next(iter(an4_cuts))
    waveform = load_audio(cut, 8000)
    assert len(waveform) == -(-cut.num_samples // 2)
    assert torch.equal(waveform, resample(load_audio(cut, 16000), 16000, 8000))


def test_a_bad_file_leaves_lhotse_as_it_was(an4_cuts: CutSet, tmp_path: Path) -> None:
    before = get_current_audio_backend()
    cut = deepcopy(an4_cuts[0])
    cut.recording.sources[0].source = str(tmp_path / "missing.wav")
    with pytest.raises(UserError, match="there is no such file"):
        load_audio(cut, 16000)
    assert get_current_audio_backend() is before
