"""The feature stage: speed replicas of the training set, features kept on disk if asked, and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from lhotse import CutSet, NumpyFilesWriter
from lhotse.cut import Cut
from safetensors.torch import load_file, save_file

from asrkit.errors import UserError
from asrkit.features.fbank import KaldiFbank, KaldiFbankConfig
from asrkit.features.normalization import MeanStd, accumulate_statistics
from asrkit.features.pipeline import FeaturePipeline, speaker_of
from asrkit.files import atomic_path

STATISTICS = "statistics.safetensors"


def read_cuts(path: Path) -> CutSet:
    """A CutSet, in memory.

    Raises:
        UserError: the file is not there.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; run the stage that makes it first (asrkit prepare, asrkit features)")
    return CutSet.from_file(path).to_eager()


def features_path(data_dir: Path, split: str) -> Path:
    """The CutSet of a split with speed replicas (train) and, where asked, stored features."""
    return data_dir / "features" / f"{split}.jsonl.gz"


def make_features(
    cuts: CutSet,
    split: str,
    data_dir: Path,
    *,
    sampling_rate_hz: int,
    num_mel_bins: int,
    speed_factors: list[float],
    store: bool,
) -> CutSet:
    """Writes the CutSet that training and decoding read.

    Args:
        cuts: the prepared split.
        split: its name; only ``train`` gets speed replicas.
        data_dir: of the recipe.
        sampling_rate_hz: of the audio.
        num_mel_bins: F.
        speed_factors: replicas of train, such as 0.9, 1.0, 1.1 (Ko et al. 2015).
        store: compute features now and keep them as float32, the same numbers that a loader computes.

    Returns:
        What was written.
    """
    if split == "train":
        cuts = speed_replicas(cuts, speed_factors)
    if store:
        extractor = KaldiFbank(KaldiFbankConfig(sampling_rate_hz, num_mel_bins))
        folder = data_dir.resolve() / "features" / f"{split}_numpy"
        cuts = cuts.compute_and_store_features(extractor, folder, storage_type=NumpyFilesWriter, progress_bar=False)
    with atomic_path(features_path(data_dir, split)) as temporary:
        cuts.to_file(temporary)
    return cuts


def speed_replicas(cuts: CutSet, factors: list[float]) -> CutSet:
    """The cuts at each speed; a factor other than 1 marks the ids of its replicas."""
    replicas: list[Cut] = []
    for factor in factors:
        replicas += [cut if factor == 1.0 else cut.perturb_speed(factor) for cut in cuts]
    return CutSet.from_cuts(replicas)


def compute_statistics(cuts: CutSet, pipeline: FeaturePipeline) -> dict[str, MeanStd]:
    """Mean and deviation of log-Mel energies by speaker and over all."""

    def utterances() -> Iterator[tuple[str, torch.Tensor]]:
        for cut in cuts:
            yield speaker_of(cut) or cut.id, pipeline.raw(cut)

    return accumulate_statistics(utterances())


def save_statistics(data_dir: Path, statistics: dict[str, MeanStd]) -> None:
    """Writes the statistics of a recipe's data."""
    tensors = {f"{name}/{part}": getattr(item, part) for name, item in statistics.items() for part in ("mean", "std")}
    with atomic_path(data_dir / "features" / STATISTICS) as temporary:
        save_file(tensors, temporary)


def load_statistics(data_dir: Path) -> dict[str, MeanStd]:
    """Reads what :func:`save_statistics` wrote.

    Raises:
        UserError: the file is not there.
    """
    path = data_dir / "features" / STATISTICS
    if not path.is_file():
        raise UserError(f"{path} is missing; run asrkit features first")
    tensors = load_file(path)
    names = {name.rsplit("/", 1)[0] for name in tensors}
    return {name: MeanStd(tensors[f"{name}/mean"], tensors[f"{name}/std"]) for name in sorted(names)}
