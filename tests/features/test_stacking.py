from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchaudio.functional
from lhotse import CutSet
from safetensors.torch import save_file

from asrkit.bundle.front_end import build_pipeline
from asrkit.config_files import config_from_dict
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.stacking import add_deltas, stack_frames
from asrkit.features.tempo import change_tempo


def test_deltas_are_kaldis() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 5)
    out = add_deltas(x)
    first = torchaudio.functional.compute_deltas(x.t(), win_length=5)
    second = torchaudio.functional.compute_deltas(first, win_length=5)
    assert torch.allclose(out, torch.cat([x, first.t(), second.t()], 1), atol=1e-5)


def test_a_second_is_fifty_vectors_of_240() -> None:
    pipeline = FeaturePipeline(num_mel_bins=40, normalization="none", deltas=True, stacking=2)
    assert pipeline.finish(torch.randn(100, 40), None).shape == (50, 240)
    assert pipeline.finish(torch.randn(101, 40), None).shape == (51, 240)
    assert pipeline.frame_shift_s == 0.02


@pytest.mark.parametrize("number", [2, 4])
def test_stacking_joins_neighbours_and_repeats_the_last(number: int) -> None:
    x = torch.arange(10.0)[:, None]
    stacked = stack_frames(x, number)
    padded = torch.cat([torch.arange(10.0), torch.full((-10 % number,), 9.0)])
    assert torch.equal(stacked, padded.view(-1, number))


def test_speaker_vectors_are_appended(tmp_path: Path, an4_cuts: CutSet) -> None:
    cut = next(iter(an4_cuts))
    path = tmp_path / "vectors.safetensors"
    save_file({cut.supervisions[0].speaker: torch.tensor([1.0, 2.0, 3.0])}, path)
    values = {"num_mel_bins": 16, "normalization": "none", "speaker_vectors": str(path), "speaker_vector_dim": 3}
    pipeline = build_pipeline(config_from_dict({"features": values}, "test"), {})
    x, _ = pipeline(cut)
    assert x.shape[1] == 19 and torch.equal(x[:, 16:], torch.tensor([[1.0, 2.0, 3.0]]).expand(x.shape[0], -1))
    with pytest.raises(UserError, match="speaker 'nobody' has no vector"):
        pipeline.finish(x[:, :16], "nobody")
    with pytest.raises(UserError, match="speaker_vector_dim is 4"):
        build_pipeline(config_from_dict({"features": values | {"speaker_vector_dim": 4}}, "test"), {})


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_tempo_changes_the_length_and_keeps_the_pitch(factor: float) -> None:
    rate = 16000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(rate) / rate)
    out = change_tempo(tone, factor, rate)
    assert out.shape == (round(rate / factor),)
    middle = out[2000:-2000] * torch.hann_window(len(out) - 4000)
    peak_hz = torch.fft.rfft(middle, n=8 * rate).abs().argmax() / 8
    assert peak_hz.item() == pytest.approx(440, abs=1)
    assert out[2000:-2000].abs().max().item() == pytest.approx(0.5, abs=0.05)
