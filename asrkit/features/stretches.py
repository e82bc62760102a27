"""Features of a long recording, stretch by stretch, in constant memory and equal to those of the complete recording."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch

from asrkit.features.audio_files import blocks, open_audio, resample
from asrkit.features.fbank import FRAME_SHIFT_S, fbank
from asrkit.features.listen import Heard, pick
from asrkit.features.normalization import MeanStd, Moments
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.stacking import DELTA_WINDOW

EDGE_FRAMES = 2
"""Log-Mel frames next to a boundary that depend on samples beyond it."""
RESAMPLING_CONTEXT = 512
"""Samples at the new rate; longer than a resampler's filter."""
OWN_STATISTICS_FRAMES = 6000
"""Frames in memory while a recording's own mean and deviation are computed."""
Samples = Callable[[int, int], torch.Tensor]
"""Samples [first, end) of a recording at the pipeline's rate; ``first`` never decreases by more than a window."""


class Stretches:
    """The model input of one recording, by frame range.

    Args:
        samples: reads the recording.
        num_samples: N, at the pipeline's rate.
        pipeline: from samples to model input.
    """

    def __init__(self, samples: Samples, num_samples: int, pipeline: FeaturePipeline) -> None:
        self.samples, self.num_samples, self.pipeline = samples, num_samples, pipeline
        self.shift = int(pipeline.sampling_rate_hz * FRAME_SHIFT_S)
        self.num_raw = (num_samples + self.shift // 2) // self.shift
        self.statistics: MeanStd | None = None
        """The recording's own statistics, if the pipeline normalizes with them."""

    @property
    def num_frames(self) -> int:
        """T, after stacking."""
        return -(-self.num_raw // self.pipeline.stacking)

    def raw(self, first: int, end: int) -> torch.Tensor:
        """(end - first, F) log-Mel energies."""
        begin, stop = max(0, first - EDGE_FRAMES), min(self.num_raw, end + EDGE_FRAMES)
        last = self.num_samples if stop == self.num_raw else stop * self.shift
        features = fbank(
            self.samples(begin * self.shift, last), self.pipeline.sampling_rate_hz, self.pipeline.num_mel_bins
        )
        return features[first - begin : end - begin]

    def take_statistics(self) -> None:
        """Computes the recording's own mean and deviation in one pass."""
        moments = None
        for first in range(0, self.num_raw, OWN_STATISTICS_FRAMES):
            part_moments = Moments.of(self.raw(first, min(self.num_raw, first + OWN_STATISTICS_FRAMES)))
            moments = part_moments if moments is None else moments + part_moments
        self.statistics = moments.finish() if moments else None

    def __call__(self, first: int, end: int) -> torch.Tensor:
        """(end - first, F) frames of model input, of ``num_frames``."""
        pipeline = self.pipeline
        context = 2 * DELTA_WINDOW if pipeline.deltas else 0
        wanted = first * pipeline.stacking, min(self.num_raw, end * pipeline.stacking)
        begin, stop = max(0, wanted[0] - context), min(self.num_raw, wanted[1] + context)
        x = self.raw(begin, stop)
        x = pipeline.normalize(x, None) if self.statistics is None else self.statistics.apply(x)
        return pipeline.finish(x, None, slice(wanted[0] - begin, wanted[1] - begin))


def of_waveform(waveform: torch.Tensor, pipeline: FeaturePipeline) -> Stretches:
    """Stretches of (N,) samples in [-1, 1] at the pipeline's rate."""
    return Stretches(lambda first, end: waveform[first:end], len(waveform), pipeline)


@contextmanager
def of_file(path: Path, heard: Heard, pipeline: FeaturePipeline) -> Iterator[Stretches]:
    """Stretches of a file, read once from start to end inside the ``with`` block.

    Raises:
        asrkit.features.audio_files.UNREADABLE: the file cannot be read.
    """
    from_hz, to_hz = heard.sampling_rate_hz, pipeline.sampling_rate_hz
    num_samples = heard.num_samples if from_hz == to_hz else -(-heard.num_samples * to_hz // from_hz)
    with open_audio(path) as file:
        read = _Window(file, heard.channel)
        if from_hz == to_hz:
            yield Stretches(read, num_samples, pipeline)
            return
        step = to_hz // math.gcd(from_hz, to_hz)  # every step-th new sample coincides with an old one

        def resampled(first: int, end: int) -> torch.Tensor:
            begin = max(0, first - RESAMPLING_CONTEXT) // step * step
            stop = min(heard.num_samples, -(-(end + RESAMPLING_CONTEXT) * from_hz // to_hz))
            return resample(read(begin * from_hz // to_hz, stop), from_hz, to_hz)[first - begin : end - begin]

        yield Stretches(resampled, num_samples, pipeline)


class _Window:
    """Reads an open file forwards and keeps the samples that later calls may need."""

    def __init__(self, file: soundfile.SoundFile, channel: int) -> None:
        self.file, self.channel = file, channel
        self.blocks = blocks(file)
        self.first, self.held = 0, np.zeros(0, np.float32)

    def __call__(self, first: int, end: int) -> torch.Tensor:
        if first < self.first:  # a second pass
            self.file.seek(0)
            self.blocks, self.first, self.held = blocks(self.file), 0, np.zeros(0, np.float32)
        while self.first + len(self.held) < end and (block := next(self.blocks, None)) is not None:
            past = min(len(self.held), first - self.first)
            self.held = np.concatenate([self.held[past:], pick(block, self.channel)])
            self.first += past
        offset = first - self.first
        return torch.from_numpy(self.held[offset : offset + end - first].copy())
