"""Builds modules from an experiment's configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import nn

from asrkit.config import Config, DssConfig
from asrkit.errors import UserError
from asrkit.features.fbank import FRAME_SHIFT_S
from asrkit.models.blstm import BlstmEncoder
from asrkit.models.conformer import Conformer
from asrkit.models.dssformer import dssformer
from asrkit.models.encoder import Encoder
from asrkit.models.joiner import Joiner
from asrkit.models.language_model import LanguageModel, LstmLanguageModel, TransformerLanguageModel
from asrkit.models.predictor import LstmPredictor, Predictor, StatelessPredictor
from asrkit.models.transducer import Transducer
from asrkit.quantization.qat import quantize_layers

Rewrite = Callable[[nn.Module, Config], None]
"""Replaces modules of a model in place, according to the configuration."""
REWRITES: dict[str, Rewrite] = {"quantize": quantize_layers}
"""By their names in ``rewrites``. A rewrite also runs on modules without data (the ``meta`` device)."""


def feature_dim(config: Config) -> int:
    """F, width of the encoder's input."""
    features = config.features
    return features.num_mel_bins * (3 if features.deltas else 1) * features.stacking + features.speaker_vector_dim


def build_encoder(config: Config) -> Encoder:
    """The encoder of an experiment."""
    settings = config.model.encoder
    if settings.type == "blstm":
        return BlstmEncoder(feature_dim(config), **asdict(settings.blstm))
    conformer = {"subsampling": settings.subsampling, **asdict(settings.conformer)}
    if settings.type == "conformer":
        return Conformer(feature_dim(config), **conformer)
    frame_shift_s = FRAME_SHIFT_S * config.features.stacking * settings.subsampling
    return dssformer(feature_dim(config), dss=_state_spaces(settings.dss, frame_shift_s), **conformer)


def _state_spaces(settings: DssConfig, frame_shift_s: float) -> dict[str, Any]:
    """Arguments of a DSS layer at a frame rate.

    Raises:
        ValueError: the smallest step is above the largest one.
    """
    values = asdict(settings)
    least, most = (frame_shift_s * values.pop(f"{name}_step_per_s") for name in ("min", "max"))
    if least > most:
        raise ValueError("model.encoder.dss.min_step_per_s is above max_step_per_s")
    return values | {"steps": (least, most)}


def build_predictor(config: Config, vocab_size: int) -> Predictor:
    """The prediction network of an experiment."""
    settings = config.model.predictor
    common = {"dropout": settings.dropout, "embedding_dropout": settings.embedding_dropout}
    if settings.type == "stateless":
        return StatelessPredictor(vocab_size, settings.embedding_dim, settings.context_size, **common)
    return LstmPredictor(vocab_size, settings.embedding_dim, settings.hidden_dim, settings.num_layers, **common)


def build_transducer(config: Config, vocab_size: int) -> Transducer:
    """The transducer of an experiment, with random weights from torch's global generator.

    Raises:
        UserError: settings contradict each other, or a rewrite is unknown.
    """
    try:
        encoder = build_encoder(config)
        predictor = build_predictor(config, vocab_size)
        joiner = Joiner(encoder.output_dim, predictor.output_dim, vocab_size=vocab_size, **asdict(config.model.joiner))
    except ValueError as error:
        raise UserError(f"the model's settings do not fit: {error}") from error
    model = Transducer(encoder, predictor, joiner)
    rewrite(model, config)
    return model


def build_language_model(config: Config, vocab_size: int) -> LanguageModel:
    """The language model of an experiment, with random weights from torch's global generator.

    Raises:
        UserError: the heads do not divide the width, or a rewrite is unknown.
    """
    lm = config.lm
    if lm.type == "transformer" and lm.hidden_dim % lm.num_heads:
        raise UserError(f"lm.hidden_dim={lm.hidden_dim} is not a multiple of lm.num_heads={lm.num_heads}")
    model: LanguageModel
    if lm.type == "lstm":
        model = LstmLanguageModel(vocab_size, lm.hidden_dim, lm.num_layers, lm.bottleneck_dim, lm.dropout)
    else:
        model = TransformerLanguageModel(
            vocab_size, lm.hidden_dim, lm.num_layers, lm.num_heads, lm.max_symbols + 1, lm.dropout
        )
    rewrite(model, config)
    return model


def rewrite(model: nn.Module, config: Config) -> None:
    """Applies the rewrites of an experiment in order.

    Raises:
        UserError: this version does not know a name.
    """
    for name in config.rewrites:
        if name not in REWRITES:
            known = ", ".join(REWRITES) or "none"
            raise UserError(f"rewrites: this version knows no '{name}' (known: {known}); is the model of a later one?")
        REWRITES[name](model, config)
