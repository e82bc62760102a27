"""One way of listening: every kind of audio that people have, and what each is refused or warned for."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asrkit.errors import UserError
from asrkit.features.audio_files import BY_FFMPEG, read_samples, resample
from asrkit.features.listen import LOUDEST, MIX, channel_choice, listen, pick

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16000)


def write(path: Path, samples: np.ndarray, **options: str) -> Path:
    soundfile.write(path, samples, 16000, **options)
    return path


def spoilt(value: float) -> np.ndarray:
    samples = SPEECH.copy()
    samples[8000] = value
    return samples


REFUSED = {
    "nan": (spoilt(np.nan), "not finite"),
    "inf": (spoilt(np.inf), "not finite"),
    "huge": (spoilt(3e38), "off scale"),
    "int16 as float": (SPEECH * 32768, "divide them by 32768"),
    "silence": (np.zeros(16000), "silent"),
    "a thousandth": (SPEECH * 1e-3, "silent"),
    "20 ms": (SPEECH[:320], "less than one frame"),
    "nothing": (np.zeros(0), "less than one frame"),
    "antiphase, mixed": (np.stack([SPEECH, -SPEECH], 1), "silent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_speech_is_refused(name: str, tmp_path: Path) -> None:
    samples, words = REFUSED[name]
    path = write(tmp_path / "x.wav", samples, subtype="FLOAT")
    assert words in listen(path, MIX if "mixed" in name else LOUDEST).problem


WARNED = {
    "quiet": (SPEECH * 0.02, "very quiet"),
    "clipped": (np.clip(SPEECH * 20, -1, 1), "clipped"),
    "offset": (SPEECH * 0.5 + 0.3, "offset of 0.30"),
    "antiphase": (np.stack([SPEECH, -SPEECH], 1), "cancel each other"),
    "two sides": (np.stack([SPEECH * 0.1, SPEECH], 1), "the loudest is heard, channel 1"),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_suspicious_is_used_with_a_warning(name: str, tmp_path: Path) -> None:
    samples, words = WARNED[name]
    heard = listen(write(tmp_path / "x.wav", samples, subtype="FLOAT"))
    assert not heard.problem and any(words in warning for warning in heard.warnings), heard.warnings


def test_good_audio_has_no_remark_and_one_silent_channel_does_not_halve_the_other(tmp_path: Path) -> None:
    mono = listen(write(tmp_path / "mono.wav", SPEECH))
    left = listen(write(tmp_path / "left.wav", np.stack([SPEECH, 0 * SPEECH], 1)))
    both = listen(write(tmp_path / "both.wav", np.stack([SPEECH, SPEECH], 1)))
    assert not mono.problem and not mono.warnings and not both.warnings
    assert (left.channel, left.peak, left.digest) == (0, mono.peak, mono.digest) == (0, both.peak, both.digest)
    assert mono.num_samples == 16000 and mono.duration_s == 1.0


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "ULAW", "ALAW"])
def test_integers_are_heard_like_the_floats_that_they_stand_for(subtype: str, tmp_path: Path) -> None:
    """The same digest and figures, full scale included; other floats have another digest."""
    loud = np.clip(SPEECH * 20, -1, 1)
    path = write(tmp_path / "x.wav", loud, subtype=subtype)
    samples = read_samples(path)[0]
    heard = listen(path, by_second=True)
    assert np.abs(samples).max() == heard.peak and heard.mean == samples.mean(dtype=np.float64)
    assert heard.peaks.tolist() == [heard.peak]
    assert heard.clipped == np.mean(np.abs(samples) >= 0.999 * samples.max()) > 0.1  # also where 1 cannot be expressed
    assert len(heard.warnings) == 1 and "clipped" in heard.warnings[0]
    for other in ("FLOAT", "PCM_24"):
        found = listen(write(tmp_path / f"{other}.wav", samples, subtype=other), by_second=True)
        assert (found.digest, found.peak, found.mean) == (heard.digest, heard.peak, heard.mean)
        assert (found.peaks == heard.peaks).all()
    assert listen(write(tmp_path / "y.wav", samples * np.float32(0.7), subtype="FLOAT")).digest != heard.digest


def test_the_digest_of_floats_does_not_depend_on_blocks(tmp_path: Path) -> None:
    """A silent beginning fits in 16 bits, what follows does not."""
    samples = np.concatenate([np.zeros(600_000, np.float32), SPEECH * np.float32(0.7)])
    mono = listen(write(tmp_path / "mono.wav", samples, subtype="PCM_24"))
    both = listen(write(tmp_path / "both.wav", np.stack([samples, samples], 1), subtype="PCM_24"))
    assert mono.digest == both.digest and not mono.problem


def test_samples_of_any_size_are_no_warning_of_numpy(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "off scale" in listen(write(tmp_path / "x.wav", SPEECH * np.float32(1e36), subtype="FLOAT")).problem


def test_channels_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", np.stack([SPEECH, SPEECH[::-1] * 0.5, 0 * SPEECH], 1), subtype="FLOAT")
    samples = read_samples(path)[0]
    for choice, expected in (("0", SPEECH), ("1", SPEECH[::-1] * 0.5), (MIX, samples.mean(1))):
        heard = listen(path, channel_choice(choice))
        assert np.allclose(pick(samples, heard.channel), expected, atol=1e-7)
    assert "no channel 3" in listen(path, "3").problem
    for wrong in ("-1", "left", "1.0", "²"):
        with pytest.raises(UserError, match="--channel is"):
            channel_choice(wrong)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf", "opus", "WAV"])
def test_formats_that_soundfile_reads(suffix: str, tmp_path: Path) -> None:
    kind = {"opus": {"format": "OGG", "subtype": "OPUS"}, "ogg": {"subtype": "VORBIS"}}.get(suffix, {})
    heard = listen(write(tmp_path / f"x.{suffix}", SPEECH, **kind))
    assert not heard.problem and abs(heard.duration_s - 1) < 0.1


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", ["m4a", "mp4", "webm", "aac", "wma"])
def test_formats_that_ffmpeg_reads(suffix: str, tmp_path: Path) -> None:
    source, path = write(tmp_path / "x.wav", SPEECH), tmp_path / f"voice memo.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, path], check=True)
    heard = listen(path)
    assert not heard.problem and abs(heard.duration_s - 1) < 0.2


def test_without_ffmpeg_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    for suffix in BY_FFMPEG:
        path = tmp_path / f"x{suffix}"
        path.write_bytes(b"\0" * 100)
        assert "ffmpeg, which is not installed; install it, or convert the file to WAV" in listen(path).problem


@pytest.mark.parametrize("rate", [1, 3999, 384001])
def test_rates_that_no_recording_has_are_refused(rate: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", SPEECH)
    data = bytearray(path.read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    assert f"it states {rate} Hz" in listen(path).problem
    with pytest.raises(UserError, match="cannot be resampled"):
        resample(torch.zeros(10), rate, 16000)


@pytest.mark.parametrize("rate", [44101, 15999, 47999])
def test_odd_rates_are_resampled_with_few_filters(rate: int) -> None:
    """A tone keeps its frequency to one in 10,000, and its length exactly."""
    time_s = torch.arange(10 * rate, dtype=torch.float64) / rate
    found = resample(torch.sin(2 * torch.pi * 440 * time_s).float(), rate, 16000)
    assert len(found) == 160_000 and abs(found[1000:-1000].square().mean().item() - 0.5) < 0.01
    rises = ((found[:-1] < 0) & (found[1:] >= 0)).nonzero().flatten()
    assert abs((len(rises) - 1) / (rises[-1] - rises[0]) * 16000 - 440) < 0.05


def test_names_of_any_bytes_and_what_is_no_file(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve \n.wav"))
    shutil.copy(write(tmp_path / "x.wav", SPEECH), odd)
    assert not listen(odd).problem
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("fifo.wav", "folder.wav", "none.wav"):
        assert listen(tmp_path / name).problem


def test_a_length_that_is_claimed_is_not_allocated(tmp_path: Path) -> None:
    path = write(tmp_path / "x.flac", SPEECH)
    data = bytearray(path.read_bytes())
    at = data.index(b"fLaC") + 8 + 13  # the last 36 bits of the stream's total are its number of samples
    data[at] |= 0x0F
    data[at + 1 : at + 5] = b"\xff\xff\xff\xf0"
    path.write_bytes(data)
    heard = listen(path)
    assert heard.problem or heard.num_samples == 16000
