"""From the experiment's configuration to its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lhotse.cut import Cut
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from asrkit.config import Config
from asrkit.data.nbest_label_smoothing import NbestLabelSmoothing, read_hypotheses
from asrkit.errors import UserError
from asrkit.features.augmentation import Augmentation
from asrkit.features.length_perturbation import LengthPerturbation
from asrkit.features.normalization import MeanStd
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.sequence_noise import SequenceNoise
from asrkit.features.spec_augment import SpecAugment
from asrkit.models.blstm import BlstmEncoder
from asrkit.models.conformer import Conformer
from asrkit.models.dssformer import dssformer
from asrkit.models.encoder import Encoder
from asrkit.models.joiner import Joiner
from asrkit.models.predictor import LstmPredictor, Predictor, StatelessPredictor
from asrkit.models.transducer import SimpleJoiner, Transducer
from asrkit.text.tokenizer import Tokenizer


def build_encoder(config: Config) -> Encoder:
    """The encoder of an experiment."""
    features, settings = config.features, config.model.encoder
    input_dim = features.num_mel_bins * (3 if features.deltas else 1) * features.stacking + features.speaker_vector_dim
    if settings.type == "blstm":
        return BlstmEncoder(input_dim, **asdict(settings.blstm))
    conformer = {"subsampling": settings.subsampling, **asdict(settings.conformer)}
    if settings.type == "conformer":
        return Conformer(input_dim, **conformer)
    return dssformer(input_dim, dss=asdict(settings.dss), **conformer)


def build_predictor(config: Config, vocab_size: int) -> Predictor:
    """The prediction network of an experiment."""
    settings = config.model.predictor
    common = {"dropout": settings.dropout, "embedding_dropout": settings.embedding_dropout}
    if settings.type == "stateless":
        return StatelessPredictor(vocab_size, settings.embedding_dim, settings.context_size, **common)
    return LstmPredictor(vocab_size, settings.embedding_dim, settings.hidden_dim, settings.num_layers, **common)


def build_model(config: Config, vocab_size: int) -> Transducer:
    """The transducer of an experiment, with random weights from torch's global generator."""
    encoder = build_encoder(config)
    predictor = build_predictor(config, vocab_size)
    joiner = Joiner(encoder.output_dim, predictor.output_dim, vocab_size=vocab_size, **asdict(config.model.joiner))
    needs_ctc = config.loss.ctc_weight > 0 or config.loss.ctc_only_epochs > 0
    ctc_head = nn.Linear(encoder.output_dim, vocab_size) if needs_ctc else None
    simple = SimpleJoiner(encoder.output_dim, predictor.output_dim, vocab_size) if config.loss.prune_range else None
    return Transducer(encoder, predictor, joiner, ctc_head, simple)


def build_pipeline(
    config: Config, statistics: dict[str, MeanStd], train: Sequence[Cut] | None = None
) -> FeaturePipeline:
    """The feature pipeline of an experiment; augmentation only where its training utterances are given.

    Raises:
        UserError: the speaker vectors cannot be read, or the data was prepared for another normalization.
    """
    features, encoder = config.features, config.model.encoder
    vectors = read_speaker_vectors(Path(features.speaker_vectors)) if features.speaker_vectors else {}
    if vectors and len(next(iter(vectors.values()))) != features.speaker_vector_dim:
        raise UserError(
            f"features.speaker_vector_dim is {features.speaker_vector_dim} but the vectors of "
            f"{features.speaker_vectors} have {len(next(iter(vectors.values())))} numbers"
        )
    if features.speaker_vector_dim and not vectors:
        raise UserError("features.speaker_vector_dim is set: give the vectors' file as features.speaker_vectors")
    pipeline = FeaturePipeline(
        sampling_rate_hz=features.sampling_rate_hz,
        num_mel_bins=features.num_mel_bins,
        normalization=features.normalization,
        statistics=statistics,
        deltas=features.deltas,
        stacking=features.stacking,
        speaker_vectors=vectors,
        frames_per_label=features.stacking * (1 if encoder.type == "blstm" else encoder.subsampling),
    )
    if train is None:
        return pipeline
    kind = features.normalization
    if kind in ("speaker", "side") and not any(name.startswith(f"{kind}:") for name in statistics):
        raise UserError(f"there are no statistics for features.normalization={kind}; run asrkit features --force")
    return replace(pipeline, augmentations=_augmentations(config, pipeline, train))


def _augmentations(config: Config, pipeline: FeaturePipeline, train: Sequence[Cut]) -> dict[str, Augmentation]:
    """Those with a probability above 0, in the order of Cui et al. 2022 (arXiv 2203.15176, fig. 1)."""
    perturb, noise, masks = config.length_perturbation, config.sequence_noise, config.spec_augment
    found: dict[str, Augmentation] = {}
    if perturb.drop_probability > 0 or perturb.insert_probability > 0:
        found["length_perturbation"] = LengthPerturbation(**asdict(perturb))
    if noise.probability > 0:
        found["sequence_noise"] = SequenceNoise(train, pipeline.normalized, noise.probability, noise.scale)
    if masks.probability > 0:
        found["spec_augment"] = SpecAugment(**asdict(masks))
    return found


def build_smoothing(config: Config, tokenizer: Tokenizer, train: Sequence[Cut]) -> NbestLabelSmoothing | None:
    """The n-best label smoothing of an experiment, None where its probability is 0.

    Raises:
        UserError: the hypotheses cannot be read, or are of another training set.
    """
    smoothing = config.nbest_label_smoothing
    if smoothing.probability <= 0:
        return None
    hypotheses = read_hypotheses(Path(smoothing.hypotheses), tokenizer)
    missing = [cut.id for cut in train if cut.id not in hypotheses]
    if missing:
        raise UserError(
            f"{smoothing.hypotheses} has no n-best list of {missing[0]} ({len(missing)} of {len(train)} utterances); "
            "run asrkit nbest on this training set"
        )
    return NbestLabelSmoothing(**(asdict(smoothing) | {"hypotheses": hypotheses}))


def read_speaker_vectors(path: Path) -> dict[str, torch.Tensor]:
    """Vectors by speaker, such as i-vectors: a safetensors file with one (E,) tensor a speaker.

    Raises:
        UserError: no such file, or not a safetensors file of vectors of one length.
    """
    if not path.is_file():
        raise UserError(f"features.speaker_vectors: there is no file {path}")
    try:
        vectors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"features.speaker_vectors: {path} is not a safetensors file ({error})") from error
    shapes = {tuple(vector.shape) for vector in vectors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise UserError(f"features.speaker_vectors: {path} must hold vectors of one length, it holds {sorted(shapes)}")
    return {speaker: vector.float() for speaker, vector in vectors.items()}
