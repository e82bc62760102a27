"""From the experiment's configuration to its parts."""

from __future__ import annotations

from dataclasses import asdict

from torch import nn

from asrkit.config import Config, FeatureConfig, SpecAugmentConfig
from asrkit.features.normalization import MeanStd
from asrkit.features.pipeline import Augmentation, FeaturePipeline
from asrkit.features.spec_augment import SpecAugment
from asrkit.models.conformer import Conformer
from asrkit.models.joiner import Joiner
from asrkit.models.predictor import LstmPredictor
from asrkit.models.transducer import Transducer


def build_model(config: Config, vocab_size: int) -> Transducer:
    """The transducer of an experiment, with random weights from torch's global generator."""
    encoder = Conformer(config.features.num_mel_bins, **asdict(config.model.encoder))
    predictor = LstmPredictor(vocab_size, **asdict(config.model.predictor))
    joiner = Joiner(encoder.output_dim, predictor.output_dim, vocab_size=vocab_size, **asdict(config.model.joiner))
    needs_ctc = config.loss.ctc_weight > 0 or config.loss.ctc_only_epochs > 0
    return Transducer(
        encoder, predictor, joiner, ctc_head=nn.Linear(encoder.output_dim, vocab_size) if needs_ctc else None
    )


def build_pipeline(
    features: FeatureConfig, statistics: dict[str, MeanStd], spec_augment: SpecAugmentConfig | None = None
) -> FeaturePipeline:
    """The feature pipeline of an experiment; augmentation only where its settings are given."""
    augment: dict[str, Augmentation] = {}
    if spec_augment is not None and spec_augment.probability > 0:
        augment["spec_augment"] = SpecAugment(**asdict(spec_augment))
    return FeaturePipeline(
        sampling_rate_hz=features.sampling_rate_hz,
        num_mel_bins=features.num_mel_bins,
        normalization=features.normalization,
        statistics=statistics,
        augmentations=augment,
    )
