"""Corpora whose transcripts are stm files: recordings by name, and their segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from asrkit.corpora.releases import SPHERE, files_of
from asrkit.corpora.utterances import Corpus, Problem, Utterance
from asrkit.text.stm import StmSegment, read_stm


def read_stm_release(
    stms: Iterable[Path],
    audio_dir: Path,
    split: str,
    normalize: Callable[[str], str],
    subset: Callable[[StmSegment], str] = lambda segment: "",
    several_channels: bool = True,
) -> Corpus:
    """The scored segments of stm files as the utterances of a split.

    A conversation side is a speaker; with one channel, the file names the speakers. A recording without any line is a
    problem.

    Args:
        stms: the transcripts.
        audio_dir: where the recordings are.
        split: name of the split.
        normalize: normalizes a segment's words.
        subset: gives a segment's subset.
        several_channels: whether a segment's channel is one of several in its file.

    Raises:
        UserError: a malformed transcript.
    """
    recordings = files_of([audio_dir], SPHERE)
    corpus = Corpus([], lists=list(stms))
    named = set()
    for path in corpus.lists:
        for segment in read_stm(path):
            named.add(segment.recording)
            if not segment.is_scored or not (text := normalize(segment.text)):
                continue
            side = f"{segment.recording}-{'AB'[segment.channel_number]}" if several_channels else segment.recording
            corpus.utterances.append(
                Utterance(
                    f"{side}_{round(100 * segment.start_s):06d}-{round(100 * segment.end_s):06d}",
                    split,
                    side if several_channels else segment.speaker,
                    text,
                    recordings.get(segment.recording, audio_dir / f"{segment.recording}.sph"),
                    segment.start_s,
                    segment.end_s - segment.start_s,
                    segment.channel_number if several_channels else None,
                    subset(segment),
                )
            )
    corpus.problems += [
        Problem(name, f"no stm file of {split} has a transcript of its recording")
        for name in sorted(recordings.keys() - named)
    ]
    return corpus
