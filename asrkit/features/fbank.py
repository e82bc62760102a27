"""Kaldi-compatible log-Mel filter bank."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torchaudio.compliance.kaldi as kaldi
from lhotse.features.base import FeatureExtractor, register_extractor

from asrkit.features.audio_files import resample

FRAME_SHIFT_S = 0.01
FRAME_LENGTH_S = 0.025


def fbank(waveform: torch.Tensor, sampling_rate_hz: int, num_mel_bins: int = 80) -> torch.Tensor:
    """Log-Mel energies as Kaldi computes them (povey window, pre-emphasis 0.97, no dither, no snipped edges).

    Samples lie in [-1, 1] and the highest filter ends 400 Hz below the Nyquist frequency. This is the convention of
    the k2 runtimes, so that they can serve models trained here.

    Args:
        waveform: (N,) samples in [-1, 1].
        sampling_rate_hz: samples per second.
        num_mel_bins: F.

    Returns:
        (T, F) float32, T = round(N / (0.01 · sampling_rate_hz)).
    """
    result: torch.Tensor = kaldi.fbank(
        waveform.to(torch.float32).unsqueeze(0),
        sample_frequency=float(sampling_rate_hz),
        num_mel_bins=num_mel_bins,
        frame_shift=1000 * FRAME_SHIFT_S,
        frame_length=1000 * FRAME_LENGTH_S,
        dither=0.0,
        snip_edges=False,
        high_freq=-400.0,
    )
    return result


@dataclass
class KaldiFbankConfig:
    """Settings of :class:`KaldiFbank`."""

    sampling_rate: int = 16000
    num_mel_bins: int = 80

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as Lhotse stores them."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> KaldiFbankConfig:
        """The settings from the values of :meth:`to_dict`."""
        return KaldiFbankConfig(**data)


@register_extractor
class KaldiFbank(FeatureExtractor):  # type: ignore[misc]  # Lhotse has no types
    """:func:`fbank` as a Lhotse extractor, so that Lhotse stores the features that the loader computes."""

    name = "asrkit-fbank"
    config_type = KaldiFbankConfig

    @property
    def frame_shift(self) -> float:
        """Seconds between frames."""
        return FRAME_SHIFT_S

    def feature_dim(self, sampling_rate: int) -> int:
        """F."""
        return int(self.config.num_mel_bins)

    def extract(self, samples: np.ndarray | torch.Tensor, sampling_rate: int) -> np.ndarray:
        """(channels, N) or (N,) samples to (T, F) features of the channel mean, at the configured rate."""
        waveform = torch.as_tensor(samples)
        waveform = waveform.mean(dim=0) if waveform.ndim > 1 and len(waveform) > 1 else waveform.reshape(-1)
        waveform = resample(waveform, sampling_rate, self.config.sampling_rate)
        return fbank(waveform, self.config.sampling_rate, self.config.num_mel_bins).numpy()
