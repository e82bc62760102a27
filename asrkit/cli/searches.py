"""The search that the ``decode`` settings describe."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from asrkit.config import DecodeConfig, FusionConfig
from asrkit.decoding.beam_search import BeamOptions
from asrkit.decoding.decode import Search
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.search import make_search
from asrkit.errors import UserError
from asrkit.models.language_model import LstmLanguageModel
from asrkit.text.tokenizer import Tokenizer
from asrkit.training.language_model import load_language_model

INTERNAL = "internal"
"""As ``decode.fusion.source_lm``: the transducer's own language model."""


def build_search(settings: DecodeConfig, tokenizer: Tokenizer, device: torch.device) -> Search:
    """The search with its language models on ``device``.

    Raises:
        UserError: settings that contradict each other, or language models of other symbols.
    """
    options = BeamOptions(
        beam=settings.beam, nbest=settings.nbest, expand_beam=settings.expand_beam,
        score_margin=settings.score_margin or math.inf, max_symbols=settings.max_symbols,
        max_labels_per_frame=settings.max_labels_per_frame, blank_penalty=settings.blank_penalty,
        full_sum=settings.full_sum,
    )  # fmt: skip
    fusion = build_fusion(settings.fusion, tokenizer, device)
    if fusion is not None and settings.method == "greedy":
        raise UserError("decode.fusion needs decode.method=beam or modified_beam")
    return make_search(settings.method, options, fusion)


def build_fusion(settings: FusionConfig, tokenizer: Tokenizer, device: torch.device) -> Fusion | None:
    """The language models of a search, None where none has a weight.

    Raises:
        UserError: a weight without a model, or a model of other symbols.
    """
    weights = FusionWeights(settings.source_weight, settings.target_weight, settings.length_weight)
    if weights == FusionWeights():
        return None
    return Fusion(weights, *read_fusion_models(settings, tokenizer, device))


def require_weights(settings: FusionConfig) -> None:
    """Refuses language models that would not be heard.

    Raises:
        UserError: a model whose weight is 0.
    """
    for name in ("source", "target"):
        if getattr(settings, f"{name}_lm") and getattr(settings, f"{name}_weight") == 0:
            raise UserError(
                f"decode.fusion.{name}_lm is given but decode.fusion.{name}_weight is 0, so it would add nothing; "
                "set the weight, or find it with asrkit decode --tune-fusion"
            )


def read_fusion_models(
    settings: FusionConfig, tokenizer: Tokenizer, device: torch.device, all_given: bool = False
) -> tuple[LstmLanguageModel | None, LstmLanguageModel | None, bool]:
    """The external and the source language model and whether the source is the transducer's own.

    Args:
        settings: of the fusion.
        tokenizer: of the recognizer.
        device: of the recognizer.
        all_given: read models whose weight is 0 too, which tuning starts from.

    Raises:
        UserError: a weight without a model, or a model of other symbols.
    """
    for weight, name in ((settings.source_weight, "source_lm"), (settings.target_weight, "target_lm")):
        if weight and not getattr(settings, name):
            raise UserError(f"decode.fusion: a weight is set but {name} is not; give a language model's file")
    internal = settings.source_lm == INTERNAL
    with_source = bool(settings.source_lm) and (all_given or settings.source_weight != 0)
    with_target = bool(settings.target_lm) and (all_given or settings.target_weight != 0)
    source = _read(settings.source_lm, tokenizer, device) if with_source and not internal else None
    target = _read(settings.target_lm, tokenizer, device) if with_target else None
    return target, source, internal and with_source


def _read(path: str, tokenizer: Tokenizer, device: torch.device) -> LstmLanguageModel:
    bundle = load_language_model(Path(path))
    if bundle.tokenizer.to_dict() != tokenizer.to_dict():
        raise UserError(f"{path} has other symbols than the recognizer; train it with the same tokenizer.json")
    if not isinstance(bundle.model, LstmLanguageModel):
        raise UserError(f"{path} is a transformer, which rescores n-best lists (asrkit rescore); fusion takes an LSTM")
    return bundle.model.to(device)
