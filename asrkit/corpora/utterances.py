"""The result of every corpus reader, its check, and its conversion to CutSets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lhotse import MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut

from asrkit.console import progress_bar
from asrkit.data.splits import SUBSET
from asrkit.errors import shown
from asrkit.features.audio_files import AUDIO_SUFFIXES as DECODABLE
from asrkit.features.listen import LOUDEST, SILENCE_PEAK, Heard, listen
from asrkit.processes import mapping
from asrkit.text.normalize import shortest

MAX_CHARACTERS_PER_S = 25.0
"""Encoder frames per second after subsampling by 4: CTC cannot emit more labels."""
AUDIO_SUFFIXES = (*DECODABLE, ".raw")
SLACK_S = 0.05
"""A segment may end this much after its recording."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One entry of a corpus's lists; None for a text or audio that is missing."""

    id: str
    split: str
    """Empty if it is still to be drawn."""
    speaker: str
    text: str | None
    audio: Path | None
    start_s: float = 0.0
    """Where it begins in the file."""
    duration_s: float | None = None
    """None for the rest of the file."""
    channel: int | None = None
    """From 0; None for the corpus-wide choice."""
    subset: str = ""
    """Part of its split that is also scored separately."""


@dataclass(frozen=True)
class Problem:
    """Why an utterance cannot be used."""

    id: str
    reason: str


@dataclass
class Corpus:
    """The result of a reader."""

    utterances: list[Utterance]
    problems: list[Problem] = field(default_factory=list)
    """Of the lists; those of audio and transcripts are found by :func:`check`."""
    notes: list[str] = field(default_factory=list)
    """Information for the user that is not a problem."""
    lists: list[Path] = field(default_factory=list)
    """The files that were read, except audio."""
    tests: tuple[str, ...] = ("test",)
    """Names of the test sets. With several, some may be missing."""

    def add(self, part: Corpus, split: str | None = None) -> None:
        """Adds a part of the corpus, in another split if one is given."""
        self.utterances += part.utterances if split is None else [with_split(u, split) for u in part.utterances]
        self.problems += part.problems
        self.notes += part.notes
        self.lists += part.lists


@dataclass
class Checked:
    """The result of a check."""

    problems: list[Problem]
    """In the order of the utterances."""
    heard: dict[str, Heard]
    """By utterance, for those without problems."""
    notes: list[str]


def check(
    utterances: Sequence[Utterance], num_jobs: int = 1, channel: str = LOUDEST, unlabelled: bool = False
) -> Checked:
    """Reads every file and reports all problems at once.

    Args:
        utterances: of all splits.
        num_jobs: processes.
        channel: the channel to read, unless an utterance names one.
        unlabelled: whether they have no transcripts.
    """
    wanted: dict[tuple[Path, str], bool] = {}
    """Files and channels, and whether their parts are utterances."""
    for u in utterances:
        if u.audio:
            key = u.audio, channel if u.channel is None else str(u.channel)
            wanted[key] = wanted.get(key, False) or u.duration_s is not None
    with mapping(num_jobs, chunksize=32) as run, progress_bar("listening", len(wanted)) as bar:
        heard = {}
        for key, sound in zip(wanted, run(_listen, wanted.items()), strict=True):
            heard[key] = sound
            bar.advance()
    first_with: dict[tuple[str, float, float | None], str] = {}
    repeated = {id for id, number in Counter(u.id for u in utterances).items() if number > 1}
    checked = Checked([], {}, [])
    warned: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        choice = channel if utterance.channel is None else str(utterance.channel)
        sound = heard[utterance.audio, choice] if utterance.audio else Heard()
        reasons = _reasons_of_audio(utterance, sound) or ([] if unlabelled else _reasons_of_text(utterance, sound))
        content = (sound.digest, utterance.start_s, utterance.duration_s)
        if utterance.id in repeated:
            reasons = ["its id is in the lists more than once"]
        elif not reasons and content in first_with:
            reasons.append(f"its audio is that of {first_with[content]}")
        elif not reasons:
            first_with[content] = utterance.id
        checked.problems += [Problem(utterance.id, reason) for reason in reasons]
        if not reasons:
            checked.heard[utterance.id] = sound
            for warning in sound.warnings:
                warned[_kind(warning)].append(utterance.id)
    checked.notes += [f"{len(ids)} utterances, such as {ids[0]}: {kind}" for kind, ids in warned.items()]
    checked.notes += _rates(checked.heard.values())
    return checked


def is_text(text: str) -> bool:
    """Whether it can be encoded as UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _listen(item: tuple[tuple[Path, str], bool]) -> Heard:
    (path, channel), in_parts = item
    return listen(path, channel, by_second=in_parts)


def _kind(warning: str) -> str:
    """A warning without one file's figures."""
    return warning.split(" (")[0]


def _rates(heard: Iterable[Heard]) -> list[str]:
    rates = Counter(sound.sampling_rate_hz for sound in heard)
    if len(rates) < 2:
        return []
    table = ", ".join(f"{number} of {rate} Hz" for rate, number in rates.most_common())
    return [f"sampling rates differ: {table}; all are resampled to features.sampling_rate_hz"]


def overlaps(utterances: Iterable[Utterance]) -> list[str]:
    """A note on parts of a recording that are in another utterance too, in one of the same channel."""
    parts: dict[tuple[Path | None, int | None], list[Utterance]] = defaultdict(list)
    for u in utterances:
        if u.duration_s is not None:
            parts[u.audio, u.channel].append(u)
    overlapping = []
    for of_one in parts.values():
        end_s = 0.0
        for u in sorted(of_one, key=lambda u: u.start_s):
            if u.start_s < end_s - SLACK_S:
                overlapping.append(u.id)
            end_s = max(end_s, u.start_s + (u.duration_s or 0.0))
    if not overlapping:
        return []
    such = f"{len(overlapping)} utterances, such as {overlapping[0]}"
    return [f"{such}, begin before another one of their recording and channel ends, so that both hold that speech"]


def _reasons_of_audio(utterance: Utterance, sound: Heard) -> list[str]:
    if utterance.audio is None:
        return ["there is a transcript but no audio"]
    if sound.problem:
        return [f"{sound.problem}: {shown(str(utterance.audio))}"]
    if not is_text(utterance.speaker):
        return ["its speaker holds half a character (a lone surrogate)"]
    duration_s = duration_of(utterance, sound)
    end_s = utterance.start_s + duration_s
    if duration_s <= 0 or end_s > sound.duration_s + SLACK_S:
        return [
            f"it lasts from {utterance.start_s:.2f} to {end_s:.2f} s, its recording {sound.duration_s:.2f} s: "
            f"{utterance.audio}"
        ]
    if utterance.duration_s is not None and _peak(utterance, sound, end_s) < SILENCE_PEAK:
        return ["the audio is silent there"]
    return []


def _reasons_of_text(utterance: Utterance, sound: Heard) -> list[str]:
    if utterance.text is None:
        return [f"there is audio but no transcript: {shown(str(utterance.audio))}"]
    if not utterance.text.strip():
        return ["the transcript is empty"]
    if not is_text(utterance.text):
        return ["its transcript holds half a character (a lone surrogate)"]
    duration_s = duration_of(utterance, sound)
    characters = len("".join(shortest(utterance.text).split()))
    if characters > MAX_CHARACTERS_PER_S * duration_s:
        return [
            f"too many labels for the frames: {characters} characters in {duration_s:.2f} s of audio, "
            f"more than {MAX_CHARACTERS_PER_S:g} a second"
        ]
    return []


def duration_of(utterance: Utterance, sound: Heard) -> float:
    """Seconds of an utterance."""
    return sound.duration_s - utterance.start_s if utterance.duration_s is None else utterance.duration_s


def _peak(utterance: Utterance, sound: Heard, end_s: float) -> float:
    return float(sound.peaks[int(utterance.start_s) : int(end_s) + 1].max(initial=0.0))


def recordings_of(utterances: Iterable[Utterance], heard: Mapping[str, Heard]) -> dict[Path, Recording]:
    """The recordings of the utterances that were heard, by file."""
    recordings: dict[Path, Recording] = {}
    stems = Counter[str]()
    for utterance in utterances:
        sound = heard.get(utterance.id)
        if sound is not None and utterance.audio is not None and utterance.audio not in recordings:
            recordings[utterance.audio] = _recording(_recording_id(utterance, sound, stems), utterance, sound)
    return recordings


def cuts_of(
    split: str, utterances: Iterable[Utterance], heard: Mapping[str, Heard], recordings: Mapping[Path, Recording]
) -> Iterator[Cut]:
    """The cuts of a split one by one, so that the cuts of millions of utterances are not in memory at once."""
    for utterance in utterances:
        if utterance.split == split and utterance.audio and (sound := heard.get(utterance.id)):
            yield _cut(utterance, sound, recordings[utterance.audio])


def _recording_id(utterance: Utterance, sound: Heard, stems: Counter[str]) -> str:
    """The utterance's id if it is the complete file, else the file's name, made unique."""
    assert utterance.audio is not None
    if utterance.duration_s is None and not utterance.start_s and sound.num_channels == 1:
        return utterance.id
    stem = shown(utterance.audio.stem)
    stems[stem] += 1
    return f"{stem}~{stems[stem] - 1}" if stems[stem] > 1 else stem


def _recording(id: str, utterance: Utterance, sound: Heard) -> Recording:
    return Recording(
        id=id,
        sources=[AudioSource(type="file", channels=list(range(sound.num_channels)), source=str(utterance.audio))],
        sampling_rate=sound.sampling_rate_hz,
        num_samples=sound.num_samples,
        duration=sound.num_samples / sound.sampling_rate_hz,
    )


def _cut(utterance: Utterance, sound: Heard, recording: Recording) -> Cut:
    # A segment does not exceed its recording, as lists may round times.
    duration_s = min(duration_of(utterance, sound), recording.duration - utterance.start_s)
    channel = list(range(sound.num_channels)) if sound.channel < 0 else sound.channel
    kind = MonoCut if sound.channel >= 0 else MultiCut
    return kind(
        id=utterance.id,
        start=utterance.start_s,
        duration=duration_s,
        channel=channel,
        recording=recording,
        custom={"audio_digest": sound.digest},
        supervisions=[
            SupervisionSegment(
                id=utterance.id,
                recording_id=recording.id,
                start=0.0,
                duration=duration_s,
                channel=channel,
                text=utterance.text,
                speaker=utterance.speaker,
                custom={SUBSET: utterance.subset} if utterance.subset else None,
            )
        ],
    )


def last_speakers(speakers: Iterable[str], number: int) -> set[str]:
    """The ``number`` speakers whose names sort last, a development set that is the same everywhere."""
    return set(sorted(set(speakers))[-number:]) if number else set()


def with_split(utterance: Utterance, split: str) -> Utterance:
    """The utterance in a split."""
    return replace(utterance, split=split)
