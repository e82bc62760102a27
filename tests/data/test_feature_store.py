from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lhotse import CutSet

from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.loaders import transcript
from asrkit.features.pipeline import FeaturePipeline, load_audio, replica_of, side_of


@pytest.fixture
def replicas(tmp_path: Path, an4_cuts: CutSet) -> CutSet:
    """Two utterances at their own speed, at speed 1.1 and at tempo 0.9."""
    two = an4_cuts.subset(first=2).to_eager()
    return make_features(
        two, "train", tmp_path, sampling_rate_hz=16000, num_mel_bins=16, speed_factors=[1.0, 1.1],
        tempo_factors=[0.9], store=False,
    )  # fmt: skip


def test_replicas_have_their_lengths_texts_and_audio(replicas: CutSet) -> None:
    cuts = list(replicas)
    assert len(cuts) == len({cut.id for cut in cuts}) == 6
    assert [replica_of(cut) for cut in cuts] == [[], [], ["speed"], ["speed"], ["tempo"], ["tempo"]]
    for n in range(2):
        original, faster, slower = cuts[n], cuts[n + 2], cuts[n + 4]
        assert faster.duration == pytest.approx(original.duration / 1.1, abs=1e-3)
        assert slower.duration == pytest.approx(original.duration / 0.9, abs=1e-3)
        for replica in (faster, slower):
            assert transcript(replica) == transcript(original)
            assert replica.supervisions[0].speaker == original.supervisions[0].speaker
            assert load_audio(replica, 16000).shape == (replica.num_samples,)
    pipeline = FeaturePipeline(num_mel_bins=16, normalization="none")
    assert pipeline(cuts[4], epoch=1)[1] == ["tempo"] and pipeline(cuts[0], epoch=1)[1] == []


def test_sides_are_normalized_by_their_own_statistics(replicas: CutSet) -> None:
    cuts = list(replicas)
    assert side_of(cuts[0]) == side_of(cuts[2]) == side_of(cuts[4]) != side_of(cuts[1])
    statistics = compute_statistics(
        CutSet.from_cuts(cuts[:2]), FeaturePipeline(num_mel_bins=16, normalization="none"), by_side=True
    )
    pipeline = FeaturePipeline(num_mel_bins=16, normalization="side", statistics=statistics)
    own = pipeline.normalized(cuts[0])
    assert own.mean(0).abs().max() < 1e-4 and (own.std(0, unbiased=False) - 1).abs().max() < 1e-4
    replica = pipeline.normalized(cuts[2])
    expected = statistics[f"side:{side_of(cuts[0])}"].apply(pipeline.raw(cuts[2]))
    assert torch.equal(replica, expected)
