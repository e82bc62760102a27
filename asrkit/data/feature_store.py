"""The feature stage: speed and tempo replicas of the training set, stored features (optional), and statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet, NumpyFilesWriter, Recording, SupervisionSegment
from lhotse.cut import Cut

from asrkit.data.cut_files import load_roots, write_cuts
from asrkit.data.folder import DataFolder
from asrkit.errors import UserError
from asrkit.features.audio_files import UNWRITABLE, any_audio, write_samples
from asrkit.features.fbank import KaldiFbank, KaldiFbankConfig
from asrkit.features.normalization import MeanStd, Moments, accumulate_statistics
from asrkit.features.pipeline import TEMPO, FeaturePipeline, load_audio, side_of, speaker_of
from asrkit.features.tempo import change_tempo
from asrkit.files import atomic_path
from asrkit.processes import mapping

CUTS_PER_JOB = 200
"""Fewest per process, as a process takes seconds to start."""


def make_features(
    cuts: CutSet,
    split: str,
    folder: DataFolder,
    *,
    sampling_rate_hz: int,
    num_mel_bins: int,
    speed_factors: list[float],
    store: bool,
    tempo_factors: Sequence[float] = (),
    num_jobs: int = 1,
) -> CutSet:
    """Writes the CutSet that training and decoding read.

    Args:
        cuts: the prepared split.
        split: its name; only ``train`` gets replicas.
        folder: where the CutSet is written.
        sampling_rate_hz: of the audio.
        num_mel_bins: F.
        speed_factors: replicas of train, such as 0.9, 1.0, 1.1 (Ko et al. 2015).
        store: compute features now and store them as float32, with the values that a loader computes.
        tempo_factors: more replicas of train, whose audio is written as FLAC.
        num_jobs: processes that make replicas and store features.

    Returns:
        The CutSet.

    Raises:
        UserError: audio cannot be read, or a file cannot be written.
    """
    if split == "train":
        replicas = speed_replicas(cuts, speed_factors)
        for factor in tempo_factors:
            replica = partial(tempo_replica, factor=factor, sampling_rate_hz=sampling_rate_hz, folder=folder)
            with _jobs(_useful_jobs(num_jobs, cuts), chunksize=8) as run:
                replicas += list(run(replica, cuts))
        cuts = CutSet.from_cuts(replicas)
    if store:
        extractor = KaldiFbank(KaldiFbankConfig(sampling_rate_hz, num_mel_bins))
        all_cuts = list(cuts)
        parts = [CutSet.from_cuts(all_cuts[n : n + CUTS_PER_JOB]) for n in range(0, len(all_cuts), CUTS_PER_JOB)]
        with _jobs(_useful_jobs(num_jobs, cuts), chunksize=1) as run:
            stored = list(run(partial(_store_features, extractor=extractor, folder=folder.arrays(split)), parts))
        by_id = {cut.id: cut for part in stored for cut in part}
        cuts = CutSet.from_cuts([by_id[cut.id] for cut in cuts])
    write_cuts(folder.features(split), cuts, load_roots(folder.path))
    if store:
        _remove_unused(cuts, folder.arrays(split))
    return cuts


def _store_features(cuts: CutSet, extractor: KaldiFbank, folder: Path) -> CutSet:
    stored, failure = CutSet.from_cuts([]), None
    try:
        with any_audio():  # reads audio as loaders do
            stored = cuts.compute_and_store_features(
                extractor, folder, storage_type=NumpyFilesWriter, progress_bar=False
            )
    except Exception as error:  # Lhotse's handling of soundfile's errors raises others
        failure = error
    stored_ids = {cut.id for cut in stored}
    missing = [cut for cut in cuts if cut.id not in stored_ids]  # Lhotse skips unreadable audio or fails
    for cut in missing:
        load_audio(cut, extractor.config.sampling_rate)
    if missing:
        raise UserError(
            f"cannot store features of {missing[0].id} in {folder}: {failure or 'no audio'}; is there space, and are "
            "10 ms a whole number of samples? features.store=false computes them while training"
        ) from failure
    return stored


def _remove_unused(cuts: CutSet, folder: Path) -> None:
    """Removes the arrays of earlier runs that ``cuts`` does not use."""
    used = {Path(cut.features.storage_path, cut.features.storage_key) for cut in cuts}
    for path in folder.rglob("*.npy"):  # names are random, so arrays are not overwritten
        if path not in used:
            path.unlink()


def speed_replicas(cuts: CutSet, factors: list[float]) -> list[Cut]:
    """The cuts at each speed; ids of replicas contain the factor unless it is 1."""
    replicas: list[Cut] = []
    for factor in factors:
        replicas += [cut if factor == 1.0 else _with_side(cut, cut.perturb_speed(factor)) for cut in cuts]
    return replicas


def tempo_replica(cut: Cut, factor: float, sampling_rate_hz: int, folder: DataFolder) -> Cut:
    """The cut at another tempo, with its audio in the data folder (Lhotse's version needs sox in torchaudio)."""
    path = folder.tempo_audio(factor, cut.id)
    waveform = change_tempo(load_audio(cut, sampling_rate_hz), factor, sampling_rate_hz)
    try:
        with atomic_path(path) as temporary:
            write_samples(temporary, waveform.clamp(-1, 1).numpy(), sampling_rate_hz)
    except UNWRITABLE as error:
        raise UserError(f"cannot write {path}: {error}; free some space, then run again") from error
    recording = Recording.from_file(path, recording_id=f"{cut.id}_tp{factor}")
    replica = recording.to_cut()
    supervision = cut.supervisions[0]
    replica.supervisions = [
        SupervisionSegment(
            id=f"{supervision.id}_tp{factor}",
            recording_id=recording.id,
            start=0.0,
            duration=recording.duration,
            text=supervision.text,
            speaker=supervision.speaker,
        )
    ]
    return _with_side(cut, replica.with_custom(TEMPO, factor))


def _with_side(original: Cut, replica: Cut) -> Cut:
    for supervision in replica.supervisions:
        supervision.custom = (supervision.custom or {}) | {"side": side_of(original)}
    return replica


def compute_statistics(
    cuts: CutSet, pipeline: FeaturePipeline, by_side: bool = False, num_jobs: int = 1
) -> dict[str, MeanStd]:
    """Mean and deviation of log-Mel energies, over all cuts and by speaker or conversation side.

    The number of processes ``num_jobs`` does not change the result: utterances are added in order.
    """
    groups = (f"side:{side_of(cut)}" if by_side else f"speaker:{speaker_of(cut) or cut.id}" for cut in cuts)
    with _jobs(_useful_jobs(num_jobs, cuts), chunksize=8) as run:
        return accumulate_statistics(zip(groups, run(partial(_moments, pipeline), cuts), strict=True))


def _moments(pipeline: FeaturePipeline, cut: Cut) -> Moments:
    return Moments.of(pipeline.raw(cut))


def _useful_jobs(number: int, cuts: CutSet) -> int:
    return max(1, min(number, len(cuts) // CUTS_PER_JOB))


def _jobs(number: int, chunksize: int) -> AbstractContextManager[Callable[..., Iterator[Any]]]:
    """``map``, in this many single-threaded processes."""
    # A forked process must not use its parent's threads.
    return mapping(number, chunksize, "spawn", partial(torch.set_num_threads, 1))
