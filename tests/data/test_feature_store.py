from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lhotse.audio.backend import LibsndfileBackend, audio_backend
from lhotse.cut import Cut

from asrkit.data import feature_store
from asrkit.data.cut_files import read_cuts
from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import transcript
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline, load_audio, replica_of, side_of


@pytest.fixture
def replicas(tmp_path: Path, an4_cuts: CutSet) -> CutSet:
    """Two utterances at their own speed, at speed 1.1 and at tempo 0.9."""
    two = an4_cuts.subset(first=2).to_eager()
    return make_features(
        two,
        "train",
        DataFolder(tmp_path),
        sampling_rate_hz=16000,
        num_mel_bins=16,
        speed_factors=[1.0, 1.1],
        tempo_factors=[0.9],
        store=False,
    )


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


def test_storing_names_what_cannot_be_read(tmp_path: Path, an4_cuts: CutSet) -> None:
    two = an4_cuts.subset(first=2).to_eager()
    samples = load_audio(two[0], 16000).numpy()
    sphere, lost = tmp_path / "a.sph", tmp_path / "b.wav"
    soundfile.write(sphere, samples, 16000, format="NIST")
    soundfile.write(lost, samples, 16000)
    store = partial(make_features, sampling_rate_hz=16000, num_mel_bins=16, speed_factors=[1.0], store=True)
    readable, missing = (CutSet.from_cuts([_cut_of(two[0], path)]) for path in (sphere, lost))
    stored = store(readable, "dev", DataFolder(tmp_path / "one"))
    assert [cut.num_features for cut in stored] == [16]
    lost.unlink()
    with pytest.raises(UserError, match="cannot read the audio of b"):
        store(missing, "dev", DataFolder(tmp_path / "two"))
    assert not (tmp_path / "two" / "features" / "dev.jsonl.gz").exists()


def test_features_made_again_take_the_place_of_the_earlier_ones(tmp_path: Path, an4_cuts: CutSet) -> None:
    two = an4_cuts.subset(first=2).to_eager()
    for factors, number in (([1.0, 1.1], 4), ([1.0], 2)):
        made = make_features(
            two,
            "train",
            DataFolder(tmp_path),
            sampling_rate_hz=16000,
            num_mel_bins=16,
            speed_factors=factors,
            store=True,
        )
        assert len(list((tmp_path / "features").rglob("*.npy"))) == len(made) == number
    assert all(cut.load_features().shape == (cut.num_frames, 16) for cut in made)


def _cut_of(spoken: Cut, path: Path) -> Cut:
    with audio_backend(LibsndfileBackend()):
        cut = Recording.from_file(path, recording_id=path.stem).to_cut()
    cut.id, cut.supervisions = path.stem, spoken.supervisions
    return cut


@pytest.mark.parametrize("content", [b"", b"{", gzip.compress(b"{}")[:-6]], ids=["empty", "no JSON", "truncated"])
def test_a_broken_cut_set_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.jsonl\.gz (cannot be read|holds no cuts)"):
        read_cuts(path)


def test_several_processes_make_what_one_makes(
    tmp_path: Path, an4_cuts: CutSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "CUTS_PER_JOB", 2)
    cuts, pipeline = an4_cuts.subset(first=4).to_eager(), FeaturePipeline(num_mel_bins=16, normalization="none")
    one, two = (compute_statistics(cuts, pipeline, num_jobs=jobs) for jobs in (1, 2))
    assert list(one) == list(two)
    assert all(torch.equal(one[k].mean, two[k].mean) and torch.equal(one[k].std, two[k].std) for k in one)
    make = partial(make_features, cuts, "train", sampling_rate_hz=16000, num_mel_bins=16, speed_factors=[1.0, 1.1])
    stored = [make(DataFolder(tmp_path / str(jobs)), store=True, num_jobs=jobs) for jobs in (1, 2)]
    assert [cut.id for cut in stored[0]] == [cut.id for cut in stored[1]]
    for a, b in zip(*stored, strict=True):
        # Up to rounding: on some processors torch resamples otherwise with another number of threads.
        torch.testing.assert_close(torch.from_numpy(a.load_features()), torch.from_numpy(b.load_features()))
