"""What recognizer training reads: its sets, and how utterances become model input."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import ModelBundle
from asrkit.config import Config
from asrkit.data.folder import DataFolder
from asrkit.data.index import CutIndex, join_indexes, open_index
from asrkit.data.nbest_label_smoothing import SMOOTHING, NbestLabelSmoothing, read_hypotheses
from asrkit.errors import UserError
from asrkit.features.augmentation import Augmentation
from asrkit.features.length_perturbation import LengthPerturbation
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.sequence_noise import SequenceNoise
from asrkit.features.spec_augment import SpecAugment
from asrkit.models.transducer import Transducer
from asrkit.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainingData:
    """What a training reads."""

    train: CutIndex
    dev: CutIndex
    train_pipeline: FeaturePipeline
    dev_pipeline: FeaturePipeline
    smoothing: NbestLabelSmoothing | None = None

    @property
    def augmentation_names(self) -> tuple[str, ...]:
        """Names of everything that changes utterances, to count hits."""
        return (*self.train_pipeline.augmentation_names, *([SMOOTHING] if self.smoothing else []))


def read_tokenizer(config: Config, folder: DataFolder) -> Tokenizer:
    """The symbols of prepared data.

    Raises:
        UserError: they are missing, or not of the type in the settings.
    """
    tokenizer = folder.load_tokenizer()
    kind = tokenizer.to_dict()["type"]
    if kind != config.tokenizer.type:
        raise UserError(
            f"tokenizer.type is {config.tokenizer.type} but {folder.tokenizer} is of type {kind}; "
            "run asrkit tokenizer --force or choose another --data-dir"
        )
    return tokenizer


def read_data(config: Config, folder: DataFolder, bundle: ModelBundle[Transducer]) -> TrainingData:
    """The sets and pipelines of an experiment.

    Raises:
        UserError: missing or unusable data, or settings that contradict each other.
    """
    mixed = [DataFolder(Path(other.data_dir)) for other in config.train.mix.values()]
    train = open_index(folder, "train", bundle.tokenizer)
    statistics = bundle.statistics
    if mixed:
        train = join_indexes([train, *(open_index(other, "train", bundle.tokenizer) for other in mixed)])
        for other in mixed:
            statistics = other.load_statistics() | statistics
    pipeline, kind = build_pipeline(config, statistics), config.features.normalization
    if kind in ("speaker", "side") and not any(name.startswith(f"{kind}:") for name in bundle.statistics):
        raise UserError(f"there are no statistics for features.normalization={kind}; run asrkit features --force")
    return TrainingData(
        train=train,
        dev=open_index(folder, "dev"),
        train_pipeline=replace(pipeline, augmentations=_augmentations(config, pipeline, train)),
        dev_pipeline=pipeline,
        smoothing=_smoothing(config, bundle.tokenizer, train),
    )


def _augmentations(config: Config, pipeline: FeaturePipeline, train: CutIndex) -> dict[str, Augmentation]:
    """Those with a probability above 0, in the order of Cui et al. 2022 (arXiv 2203.15176, fig. 1)."""
    perturb, noise, masks = config.length_perturbation, config.sequence_noise, config.spec_augment
    active: dict[str, Augmentation] = {}
    if perturb.drop_probability > 0 or perturb.insert_probability > 0:
        active["length_perturbation"] = LengthPerturbation(**asdict(perturb))
    if noise.probability > 0:
        active["sequence_noise"] = SequenceNoise(
            train, train.durations_s, pipeline.normalized, noise.probability, noise.scale
        )
    if masks.probability > 0:
        active["spec_augment"] = SpecAugment(**asdict(masks))
    return active


def _smoothing(config: Config, tokenizer: Tokenizer, train: CutIndex) -> NbestLabelSmoothing | None:
    """The n-best label smoothing of an experiment, None if its probability is 0.

    Raises:
        UserError: the hypotheses cannot be read, or are of another training set.
    """
    smoothing = config.nbest_label_smoothing
    if smoothing.probability <= 0:
        return None
    hypotheses = read_hypotheses(Path(smoothing.hypotheses), tokenizer)
    missing = np.setdiff1d(np.arange(len(train)), train.find(hypotheses))
    if len(missing):
        raise UserError(
            f"{smoothing.hypotheses} has no n-best list of {train[int(missing[0])].id} ({len(missing)} of {len(train)} "
            "utterances); run asrkit nbest on this training set"
        )
    return NbestLabelSmoothing(**(asdict(smoothing) | {"hypotheses": hypotheses}))
