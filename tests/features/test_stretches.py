"""A long file, stretch by stretch, is the same as the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asrkit.features.audio_files import resample
from asrkit.features.fbank import fbank
from asrkit.features.listen import listen
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.stretches import of_file, of_waveform


@pytest.mark.parametrize("deltas, stacking", [(False, 1), (True, 2), (False, 3), (True, 1)])
@pytest.mark.parametrize("num_samples", [400, 431, 48000, 112037])
def test_stretches_of_a_waveform_are_the_whole(deltas: bool, stacking: int, num_samples: int) -> None:
    waveform = torch.randn(num_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    pipeline = FeaturePipeline(num_mel_bins=40, normalization="none", deltas=deltas, stacking=stacking)
    whole = pipeline.finish(fbank(waveform, 16000, 40), None)
    found = of_waveform(waveform, pipeline)
    assert found.num_frames == len(whole)
    parts = [found(n, min(found.num_frames, n + 37)) for n in range(0, found.num_frames, 37)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 192000])
def test_stretches_of_a_file_are_those_of_its_resampled_whole(rate: int, tmp_path: Path) -> None:
    smooth = np.cumsum(np.random.default_rng(0).normal(0, 1, 12 * rate + 13))
    smooth = ((smooth - smooth.mean()) / np.abs(smooth).max() / 2).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", np.stack([smooth * 0, smooth], 1), rate, subtype="FLOAT")
    heard = listen(tmp_path / "x.wav")
    pipeline = FeaturePipeline(num_mel_bins=40, normalization="speaker")
    whole = fbank(resample(torch.from_numpy(smooth), rate, 16000), 16000, 40)
    with of_file(tmp_path / "x.wav", heard, pipeline) as found:
        found.take_statistics()
        assert found.num_frames == len(whole)
        parts = [found(max(0, n - 50), min(found.num_frames, n + 300))[min(n, 50) :] for n in range(0, len(whole), 300)]
    expected = pipeline.normalize(whole, None)
    assert torch.allclose(torch.cat(parts), expected, atol=1e-3)
