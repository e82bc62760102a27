"""Audio files and waveforms, by soundfile, ffmpeg, desphere and torchaudio's resampler."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import torch
from lhotse.audio.backend import AudioBackend, get_current_audio_backend, set_current_audio_backend
from lhotse.utils import compute_num_samples

from asrkit.errors import UserError
from asrkit.features.shorten import decode_shorten, is_shorten

LIBSNDFILE_VERSION = str(soundfile.__libsndfile_version__)
BY_SOUNDFILE = (
    *(".wav", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".sph", ".nist"),
    *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".voc"),
)
BY_FFMPEG = (
    *(".m4a", ".m4b", ".mp4", ".mov", ".mkv", ".mka", ".webm"),
    *(".aac", ".wma", ".amr", ".3gp", ".ac3", ".ape", ".wv"),
)
AUDIO_SUFFIXES = (*BY_SOUNDFILE, *BY_FFMPEG)
UNREADABLE = (soundfile.SoundFileError, OSError, ValueError, IndexError, RuntimeError)
"""Exceptions of reading; broken headers raise the last three."""
UNWRITABLE = (soundfile.SoundFileError,)
LEAST_HZ, MOST_HZ = 4000, 384_000
"""Range of the sampling rates of recorded speech; files with others count as damaged."""
BLOCK_SAMPLES = 1 << 20
MOST_PHASES = 1000
"""Most filters of a resampler. Rates whose ratio needs more, such as 44101 and 16000 Hz, use the nearest ratio that
does not, with an error of at most one in 10,000, a tenth of a frame in ten seconds."""


@contextmanager
def open_audio(path: Path, part: tuple[float, float | None] | None = None) -> Iterator[soundfile.SoundFile]:
    """A file opened by soundfile; formats that only ffmpeg or desphere reads are converted to a temporary WAV.

    Args:
        path: the file.
        part: start and duration of the part needed, in seconds; ffmpeg decodes only that.

    Raises:
        asrkit.features.audio_files.UNREADABLE: it cannot be decoded, is not a file, or states an impossible rate.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}" if not path.exists() else f"{path} is no regular file")
    if path.suffix.lower() in BY_FFMPEG:
        with _decoded(partial(_decode_with_ffmpeg, path, part=part or (0.0, None))) as file:
            yield file
        return
    try:
        opened = soundfile.SoundFile(os.fsencode(path))
    except soundfile.SoundFileError:
        if not is_shorten(path):
            raise
        with _decoded(partial(decode_shorten, path)) as file:
            yield file
        return
    with opened as file:
        if not LEAST_HZ <= file.samplerate <= MOST_HZ:
            raise ValueError(f"it states {file.samplerate} Hz, which no recording of speech has")
        yield file


@contextmanager
def _decoded(decode: Callable[[Path], None]) -> Iterator[soundfile.SoundFile]:
    with tempfile.TemporaryDirectory(prefix="asrkit-") as folder:
        target = Path(folder, "decoded.wav")
        decode(target)
        with open_audio(target) as file:
            yield file


def num_channels(path: Path) -> int:
    """Number of channels of a file; 1 if it cannot be read, which :func:`asrkit.features.listen.listen` reports."""
    try:
        with open_audio(path) as file:
            return int(file.channels)
    except UNREADABLE:
        return 1


def _decode_with_ffmpeg(path: Path, target: Path, part: tuple[float, float | None]) -> None:
    program = shutil.which("ffmpeg")
    kind = path.suffix.lower().removeprefix(".")
    if program is None:
        raise ValueError(f"{kind} is read by ffmpeg, which is not installed; install it, or convert the file to WAV")
    command = [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"]
    begin, duration = part
    command += ["-ss", f"{begin:.6f}"] if begin else []
    command += ["-t", f"{duration:.6f}"] if duration is not None else []
    command += ["-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_s16le", "-rf64", "auto", f"file:{target}"]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise ValueError(f"ffmpeg cannot decode it: {reason}")


def blocks(file: soundfile.SoundFile, size: int = BLOCK_SAMPLES, dtype: str = "float32") -> Iterator[np.ndarray]:
    """The rest of an open file, in (N, channels) blocks of at most ``size`` values: float32 in [-1, 1], or int16.

    The length in the file's header is ignored: the file is read to its end.
    """
    frames = max(1, size // file.channels)
    block = file.read(frames, dtype=dtype, always_2d=True)
    while len(block):
        yield block
        if len(block) < frames:
            return
        block = file.read(frames, dtype=dtype, always_2d=True)


def read_samples(path: Path, start_s: float = 0.0, duration_s: float | None = None) -> tuple[np.ndarray, int]:
    """Samples (N, channels) float32 in [-1, 1] of a file or part of it, and its sampling rate in Hz.

    Raises:
        asrkit.features.audio_files.UNREADABLE: the file cannot be decoded.
    """
    with open_audio(path, (start_s, duration_s)) as file:
        if start_s and path.suffix.lower() not in BY_FFMPEG:
            file.seek(compute_num_samples(start_s, file.samplerate))
        if duration_s is None:
            parts = list(blocks(file))
            samples = np.concatenate(parts) if parts else np.zeros((0, file.channels), np.float32)
        else:
            samples = file.read(compute_num_samples(duration_s, file.samplerate), dtype="float32", always_2d=True)
        return samples, int(file.samplerate)


class AnyAudio(AudioBackend):  # type: ignore[misc]  # Lhotse has no types
    """Lets Lhotse read audio as :func:`read_samples` does, whatever the suffix."""

    def read_audio(
        self,
        path_or_fd: str,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[np.ndarray, int]:
        """(channels, N) samples and their rate."""
        samples, rate = read_samples(Path(path_or_fd), offset, duration)
        return np.ascontiguousarray(samples.T), rate


@contextmanager
def any_audio() -> Iterator[None]:
    """Within it, Lhotse reads audio as :func:`read_samples` does. Lhotse's own context does not end at an exception."""
    previous = get_current_audio_backend()
    set_current_audio_backend(AnyAudio())
    try:
        yield
    finally:
        set_current_audio_backend(previous)


def write_samples(path: Path, samples: np.ndarray, sampling_rate_hz: int) -> None:
    """Writes (N,) samples, float in [-1, 1] or int16, in the format of the suffix.

    Raises:
        asrkit.features.audio_files.UNWRITABLE: the file system refused.
    """
    soundfile.write(path, samples, sampling_rate_hz)


def resample(waveform: torch.Tensor, from_hz: int, to_hz: int) -> torch.Tensor:
    """Resamples (N,) samples to (N · to_hz / from_hz,), rounded up.

    Raises:
        UserError: a rate outside 4 to 384 kHz.
    """
    from torchaudio.functional import resample as torchaudio_resample

    if from_hz == to_hz:
        return waveform
    for rate in (from_hz, to_hz):
        if not LEAST_HZ <= rate <= MOST_HZ:
            raise UserError(f"{rate} Hz cannot be resampled; rates lie between {LEAST_HZ} and {MOST_HZ} Hz")
    ratio = Fraction(from_hz, to_hz)
    if max(ratio.numerator, ratio.denominator) > MOST_PHASES:
        ratio = ratio.limit_denominator(int(MOST_PHASES / max(1.0, from_hz / to_hz)))
    length = -(-len(waveform) * to_hz // from_hz)
    resampled = cast(torch.Tensor, torchaudio_resample(waveform, ratio.numerator, ratio.denominator))
    return torch.nn.functional.pad(resampled, (0, max(0, length - len(resampled))))[:length]
