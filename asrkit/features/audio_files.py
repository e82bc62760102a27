"""Audio files and waveforms: the one place that calls soundfile, and torchaudio's resampler."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import torch

LIBSNDFILE_VERSION = str(soundfile.__libsndfile_version__)
UNREADABLE = (soundfile.SoundFileError, OSError, ValueError, IndexError)
"""What :func:`read_samples` raises; the last two of a broken header."""
UNWRITABLE = (soundfile.SoundFileError,)


def read_samples(path: Path) -> tuple[np.ndarray, int]:
    """Samples (N, channels) float32 in [-1, 1] of a file, and its sampling rate in Hz.

    Raises:
        asrkit.features.audio_files.UNREADABLE: the file cannot be decoded.
    """
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return cast(np.ndarray, samples), int(rate)


def write_samples(path: Path, samples: np.ndarray, sampling_rate_hz: int) -> None:
    """Writes (N,) samples, float in [-1, 1] or int16, in the format of the suffix.

    Raises:
        asrkit.features.audio_files.UNWRITABLE: the file system refused.
    """
    soundfile.write(path, samples, sampling_rate_hz)


def resample(waveform: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """(N,) samples at another rate."""
    from torchaudio.functional import resample as torchaudio_resample

    return cast(torch.Tensor, torchaudio_resample(waveform, from_hz, to_hz))
