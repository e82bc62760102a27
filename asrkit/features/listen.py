"""Checking audio: the content of a file, the choice of its channel, and its problems.

``prepare``, the loader and ``transcribe`` all follow these rules.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asrkit.errors import UserError
from asrkit.features.audio_files import UNREADABLE, blocks, open_audio
from asrkit.features.containers import truncation
from asrkit.features.fbank import FRAME_LENGTH_S

LOUDEST, MIX, SPLIT = "loudest", "mix", "split"
"""Channel choices other than a number from 0: the loudest, the mean of all, or each as its own recording."""
SILENCE_PEAK = 1e-3
"""Audio that never exceeds this (-60 dBFS) contains no speech."""
QUIET_PEAK = 1e-2
OFF_SCALE_PEAK = 4.0
"""Float samples that exceed full scale by more than this factor were written at integer scale, or are damaged."""
FULL_SCALE = 0.999
LARGEST = {"PCM_S8": 127 / 128, "PCM_U8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}
"""Largest sample of encodings in which it is less than ``FULL_SCALE``."""
CLIPPED_SHARE = 0.01
OFFSET = 0.1
CANCELLED = 0.1
"""Channels whose mean is weaker than the weakest of them by this factor cancel each other."""
IN_INT16 = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")
"""soundfile's names of encodings whose samples fit in 16 bits; integers are faster to check than floats."""
INT16_SCALE = 32768
"""What such an integer is divided by."""
DIGESTS = "2-"
"""Kind of the digests of audio; those of other kinds cannot be compared."""


def channel_choice(text: str) -> str:
    """``text`` as a channel choice.

    Raises:
        UserError: not a valid choice.
    """
    if text in (LOUDEST, MIX, SPLIT) or (text.isascii() and text.isdigit()):
        return text
    raise UserError(f"--channel is '{text}'; give a number from 0, {LOUDEST}, {MIX} or {SPLIT}")


@dataclass
class Heard:
    """The properties and problems of a file."""

    sampling_rate_hz: int = 0
    num_samples: int = 0
    num_channels: int = 0
    channel: int = 0
    """The channel that is used; -1 for the mean of all."""
    peak: float = 0.0
    mean: float = 0.0
    clipped: float = 0.0
    """Share of the samples at full scale."""
    finite: bool = True
    cancels: bool = False
    digest: str = ""
    """Digest of that channel's samples."""
    peaks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Peak of each second, if asked for."""
    problem: str = ""
    """Why it cannot be used; empty if it can."""
    warnings: tuple[str, ...] = ()
    """Problems with which it can still be used."""

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return self.num_samples / self.sampling_rate_hz if self.sampling_rate_hz else 0.0


@dataclass(frozen=True)
class Rule:
    """Something that can be wrong with audio."""

    holds: Callable[[Heard], bool]
    says: str
    """Formatted with the fields of :class:`Heard`."""
    refused: bool = False
    """Whether such audio is excluded."""


RULES = (
    Rule(lambda h: not h.finite, "the audio has samples that are not finite", refused=True),
    Rule(
        lambda h: h.num_samples < FRAME_LENGTH_S * h.sampling_rate_hz,
        "the audio holds {num_samples} samples, less than one frame",
        refused=True,
    ),
    Rule(
        lambda h: h.peak > OFF_SCALE_PEAK,
        "the audio is off scale: its samples reach {peak:g} where full scale is 1; were integers written as floats? "
        "divide them by 32768",
        refused=True,
    ),
    Rule(lambda h: h.peak < SILENCE_PEAK, "the audio is silent (it reaches {peak:.1g} of full scale)", refused=True),
    Rule(lambda h: h.peak < QUIET_PEAK, "the audio is very quiet (it reaches {peak:.2g} of full scale)"),
    Rule(lambda h: h.clipped > CLIPPED_SHARE, "the audio is clipped ({clipped:.1%} of it at full scale)"),
    Rule(lambda h: abs(h.mean) > OFFSET, "the audio has an offset of {mean:.2f} of full scale"),
    Rule(lambda h: h.cancels, "its channels cancel each other when mixed"),
)
"""Checked in this order; the first rule that refuses the audio is reported."""


def listen(path: Path, channel: str = LOUDEST, by_second: bool = False) -> Heard:
    """Reads a complete file, block by block, and checks it; the content never raises an exception.

    Args:
        path: the file.
        channel: a choice of :func:`channel_choice` other than ``split``.
        by_second: whether to measure ``peaks``.
    """
    try:
        heard = _measure(path, channel, by_second)
        missing = truncation(path)
    except FileNotFoundError:
        return Heard(problem="the audio file is missing")
    except UNREADABLE as error:
        return Heard(problem=f"the audio cannot be decoded ({why(error)})")
    if missing:
        heard.problem = f"the audio file is truncated ({missing})"
    if heard.problem:
        return heard
    matching = [rule for rule in RULES if rule.holds(heard)]
    refused = [rule.says.format(**vars(heard)) for rule in matching if rule.refused]
    heard.problem = refused[0] if refused else ""
    heard.warnings += tuple(rule.says.format(**vars(heard)) for rule in matching if not rule.refused)
    return heard


def why(error: BaseException) -> str:
    """The message of a read error without the file name, which soundfile writes as bytes."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line.split("': ", 1)[-1] if line.startswith("Error opening") else line


def pick(samples: np.ndarray, channel: int) -> np.ndarray:
    """(N, channels) to (N,): one channel, or the mean of all for -1."""
    picked: np.ndarray = samples.mean(axis=1) if channel < 0 else samples[:, channel]
    return picked


def _measure(path: Path, choice: str, by_second: bool) -> Heard:
    with open_audio(path) as file:
        heard = Heard(int(file.samplerate), num_channels=int(file.channels))
        if choice.isdigit() and int(choice) >= heard.num_channels:
            heard.problem = f"it has {heard.num_channels} channel(s), counted from 0, and no channel {choice}"
            return heard
        if heard.num_channels > 1 and choice == LOUDEST:
            heard.channel = _loudest(path, heard)
        elif choice == MIX and heard.num_channels > 1:
            heard.channel = -1
        elif choice.isdigit():
            heard.channel = int(choice)
        whole = file.subtype in IN_INT16 and heard.channel >= 0
        full = INT16_SCALE if whole else 1
        clips_at = FULL_SCALE * LARGEST.get(file.subtype, 1.0)
        content, total, clipped = _Content(), 0.0, 0
        rest, peaks = np.zeros(0, np.int16 if whole else np.float32), []
        second = heard.sampling_rate_hz
        for block in blocks(file, dtype="int16" if whole else "float32"):
            x = np.ascontiguousarray(pick(block, heard.channel))
            heard.num_samples += len(x)
            peak = _peak(x) / full
            if not math.isfinite(peak):
                heard.finite = False
                break  # sums of such samples are meaningless
            content.add(x)
            heard.peak = max(heard.peak, peak)
            total += float(x.sum(dtype=np.int64 if whole else np.float64))
            if peak >= clips_at:
                clipped += int(np.count_nonzero((x >= clips_at * full) | (x <= -clips_at * full)))
            if not by_second:
                continue
            x = np.concatenate([rest, x]) if len(rest) else x
            complete = len(x) // second * second
            peaks += [_peak(row) / full for row in x[:complete].reshape(-1, second)]
            rest = x[complete:].copy()
        if len(rest):
            peaks.append(_peak(rest) / full)
        heard.digest = content.digest()
        heard.peaks = np.array(peaks, np.float32)
        heard.mean, heard.clipped = total / full / max(1, heard.num_samples), clipped / max(1, heard.num_samples)
        return heard


def _peak(x: np.ndarray) -> float:
    """Largest absolute value; not finite if one of them is not. Does not store the absolute values."""
    high, low = float(x.max()), float(x.min())
    return max(high, -low) if math.isfinite(high) and math.isfinite(low) else math.nan


class _Content:
    """Identifies samples in all formats: by their values as int16 if that loses nothing, else as float32."""

    def __init__(self) -> None:
        self.integers = hashlib.sha256(usedforsecurity=False)
        self.floats = hashlib.sha256(usedforsecurity=False)
        self.exact = True

    def add(self, x: np.ndarray) -> None:
        """(N,) further samples, int16 or finite float32."""
        if x.dtype == np.int16:
            self.integers.update(x.data)
            return
        self.floats.update(x.data)
        if self.exact:
            scaled = x * np.float64(INT16_SCALE)
            integers = np.clip(scaled, -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)
            self.exact = bool((integers == scaled).all())
            self.integers.update(integers.data)

    def digest(self) -> str:
        """Starts with :data:`DIGESTS`."""
        return DIGESTS + (self.integers if self.exact else self.floats).hexdigest()[:32]


def _loudest(path: Path, heard: Heard) -> int:
    """The first channel with the most energy; warns unless all channels are identical."""
    energy, mixed, same = np.zeros(heard.num_channels), 0.0, True
    with open_audio(path) as file:
        for block in blocks(file):
            x = block.astype(np.float64)
            energy += np.square(x).sum(axis=0)
            mixed += float(np.square(x.mean(axis=1)).sum())
            same &= bool((block == block[:, :1]).all())
    if not np.isfinite(energy).all():
        return 0
    loudest = int(energy.argmax())
    heard.cancels = mixed < CANCELLED**2 * energy.min()
    if not same:
        heard.warnings = (
            f"it has {heard.num_channels} channels, of which the loudest is heard, channel {loudest} counted from 0 "
            "(--channel chooses)",
        )
    return loudest
