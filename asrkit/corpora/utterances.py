"""What every corpus reader yields, how it is checked, and how it becomes CutSets."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from asrkit.corpora.containers import truncation
from asrkit.features.audio_files import UNREADABLE, read_samples

SILENCE_PEAK = 1e-3
"""Audio that never exceeds this (-60 dB of full scale) holds no speech."""
MAX_CHARACTERS_PER_S = 25.0
"""Encoder frames a second after subsampling by 4: CTC has no place for more labels than these."""
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".sph", ".raw")


@dataclass(frozen=True)
class Utterance:
    """One entry of a corpus, as its lists state it; None for what the lists or the disk lack."""

    id: str
    split: str
    speaker: str
    text: str | None
    audio: Path | None


@dataclass(frozen=True)
class Problem:
    """Why an utterance cannot be used."""

    id: str
    reason: str


@dataclass(frozen=True)
class _Heard:
    """What listening to a file tells."""

    sampling_rate_hz: int = 0
    num_samples: int = 0
    num_channels: int = 0
    digest: str = ""
    problem: str = ""


def check(utterances: Sequence[Utterance], num_jobs: int = 1) -> tuple[list[Problem], dict[str, Recording]]:
    """Listens to every file and reports all problems at once.

    Args:
        utterances: of all splits.
        num_jobs: processes.

    Returns:
        The problems in the order of the utterances, and the recordings of those without any.
    """
    paths = [u.audio for u in utterances]
    if num_jobs > 1:
        with ProcessPoolExecutor(num_jobs) as pool:
            heard = list(pool.map(_listen, paths, chunksize=16))
    else:
        heard = [_listen(path) for path in paths]
    rates = Counter(sound.sampling_rate_hz for sound in heard if sound.sampling_rate_hz)
    usual_hz = max(rates, key=lambda rate: rates[rate], default=0)
    first_with: dict[str, str] = {}
    seen: set[str] = set()
    problems: list[Problem] = []
    recordings: dict[str, Recording] = {}
    for utterance, sound in zip(utterances, heard, strict=True):
        reasons = _reasons(utterance, sound)
        if utterance.id in seen:
            reasons.append("its id stands in the lists more than once")
        elif sound.digest and sound.digest in first_with:
            reasons.append(f"its audio is that of {first_with[sound.digest]}")
        elif sound.digest:
            first_with[sound.digest] = utterance.id
        if sound.sampling_rate_hz not in (0, usual_hz):
            reasons.append(f"its audio has {sound.sampling_rate_hz} Hz, most of the others' {usual_hz}; resample it")
        seen.add(utterance.id)
        problems += [Problem(utterance.id, reason) for reason in reasons]
        if not reasons:
            recordings[utterance.id] = _recording(utterance, sound)
    return problems, recordings


def _reasons(utterance: Utterance, sound: _Heard) -> list[str]:
    if utterance.audio is None:
        return ["there is a transcript but no audio"]
    if sound.problem:
        return [f"{sound.problem}: {utterance.audio}"]
    if utterance.text is None:
        return [f"there is audio but no transcript: {utterance.audio}"]
    if not utterance.text.strip():
        return ["the transcript is empty"]
    duration_s = sound.num_samples / sound.sampling_rate_hz
    characters = len("".join(utterance.text.split()))
    if characters > MAX_CHARACTERS_PER_S * duration_s:
        return [
            f"too many labels for the frames: {characters} characters in {duration_s:.2f} s of audio, "
            f"more than {MAX_CHARACTERS_PER_S:g} a second"
        ]
    return []


def _listen(path: Path | None) -> _Heard:
    if path is None:
        return _Heard()
    if not path.is_file():
        return _Heard(problem="the audio file is missing")
    try:
        cut_off = truncation(path)
        samples, rate = read_samples(path)
    except UNREADABLE as error:
        return _Heard(problem=f"the audio cannot be decoded ({str(error).splitlines()[0]})")
    if cut_off:
        return _Heard(problem=f"the audio file is truncated ({cut_off})")
    if not np.isfinite(samples).all():
        return _Heard(problem="the audio has samples that are not finite")
    if samples.shape[0] == 0 or float(np.abs(samples).max()) < SILENCE_PEAK:
        return _Heard(problem="the audio is silent")
    if samples.shape[1] != 1:
        return _Heard(problem=f"the audio has {samples.shape[1]} channels, not one")
    digest = hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()
    return _Heard(rate, samples.shape[0], samples.shape[1], digest)


def _recording(utterance: Utterance, sound: _Heard) -> Recording:
    return Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=[0], source=str(utterance.audio))],
        sampling_rate=sound.sampling_rate_hz,
        num_samples=sound.num_samples,
        duration=sound.num_samples / sound.sampling_rate_hz,
    )


def to_cut_sets(utterances: Iterable[Utterance], recordings: dict[str, Recording]) -> dict[str, CutSet]:
    """CutSets by split, of the utterances that have a recording (that is, passed the check)."""
    by_split: dict[str, list[MonoCut]] = defaultdict(list)
    for utterance in utterances:
        recording = recordings.get(utterance.id)
        if recording is None or utterance.text is None:
            continue
        segment = SupervisionSegment(
            id=utterance.id,
            recording_id=utterance.id,
            start=0.0,
            duration=recording.duration,
            text=utterance.text,
            speaker=utterance.speaker,
        )
        by_split[utterance.split].append(
            MonoCut(
                id=utterance.id,
                start=0.0,
                duration=recording.duration,
                channel=0,
                recording=recording,
                supervisions=[segment],
            )
        )
    return {split: CutSet.from_cuts(cuts) for split, cuts in by_split.items()}


def last_speakers(speakers: Iterable[str], number: int) -> set[str]:
    """The ``number`` speakers whose names sort last: a development set that is the same everywhere."""
    return set(sorted(set(speakers))[-number:]) if number else set()
