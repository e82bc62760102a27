from __future__ import annotations

from pathlib import Path

import kaldi_native_fbank as knf
import torch
from lhotse import CutSet

from asrkit.data.feature_store import make_features
from asrkit.data.folder import DataFolder
from asrkit.features.fbank import fbank
from asrkit.features.pipeline import FeaturePipeline, load_audio


def native_fbank(waveform: torch.Tensor, num_mel_bins: int) -> torch.Tensor:
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.frame_opts.samp_freq = 16000
    options.mel_opts.num_bins = num_mel_bins
    options.mel_opts.high_freq = -400.0
    extractor = knf.OnlineFbank(options)
    extractor.accept_waveform(16000, waveform.tolist())
    extractor.input_finished()
    return torch.stack([torch.from_numpy(extractor.get_frame(i).copy()) for i in range(extractor.num_frames_ready)])


def test_equals_kaldi_native_fbank(an4_cuts: CutSet) -> None:
    for cut in an4_cuts.subset(first=5):
        waveform = load_audio(cut, 16000)
        ours, reference = fbank(waveform, 16000), native_fbank(waveform, 80)
        assert ours.shape == reference.shape == (round(waveform.numel() / 160), 80)
        assert (ours - reference).abs().max() < 1e-3


def test_stored_features_are_those_of_the_loader(an4_cuts: CutSet, tmp_path: Path) -> None:
    pipeline = FeaturePipeline(num_mel_bins=16, normalization="none")
    cuts = an4_cuts.subset(first=3)
    made = {
        store: make_features(
            cuts,
            "train",
            DataFolder(tmp_path / str(store)),
            sampling_rate_hz=16000,
            num_mel_bins=16,
            speed_factors=[0.9, 1.0, 1.1],
            store=store,
        )
        for store in (True, False)
    }
    assert len(made[True]) == len(made[False]) == 9
    for stored, computed in zip(made[True], made[False], strict=True):
        assert stored.id == computed.id and stored.has_features and not computed.has_features
        assert torch.equal(pipeline.raw(stored), pipeline.raw(computed))


def test_speed_replicas_change_the_duration(an4_cuts: CutSet, tmp_path: Path) -> None:
    cut = next(iter(an4_cuts))
    made = make_features(
        CutSet.from_cuts([cut]),
        "train",
        DataFolder(tmp_path),
        sampling_rate_hz=16000,
        num_mel_bins=16,
        speed_factors=[0.9, 1.0, 1.1],
        store=False,
    )
    ratios = [cut.duration / replica.duration for replica in made]
    assert all(abs(ratio - factor) < 1e-3 for ratio, factor in zip(ratios, [0.9, 1.0, 1.1], strict=True))
