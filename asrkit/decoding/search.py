"""The searches by name, and building the search of the ``decode`` settings with its language models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from asrkit.bundle.model_file import ModelBundle, load_language_model
from asrkit.config import DecodeConfig, FusionConfig
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import AlignmentLengthSearch, ModifiedSearch
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.greedy import GreedySearch
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.errors import UserError
from asrkit.models.language_model import LanguageModel, LstmLanguageModel
from asrkit.models.transducer import Transducer
from asrkit.quantization.integer import use_integers
from asrkit.text.tokenizer import Tokenizer

GREEDY, BEAM, MODIFIED_BEAM = METHODS = ("greedy", "beam", "modified_beam")
INTERNAL = "internal"
"""As ``decode.fusion.source_lm``: the transducer's own language model."""


class Started(Protocol):
    """An open search of one batch."""

    def accept(self, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, last: bool = True) -> None:
        """Takes more frames, (B, n, D) of which (B,) are real; ``last`` if no others follow."""

    def results(self) -> list[list[Hypothesis]]:
        """The n-best list of each utterance, best first, after the last frames."""


@dataclass(frozen=True)
class Search:
    """A search with its settings: from encoder output to n-best lists."""

    method: str
    options: BeamOptions = field(default_factory=BeamOptions)
    """Of the beam searches; ``max_symbols`` and ``blank_penalty`` of the greedy one too."""
    fusion: Fusion | None = None
    """Language models for the beam searches."""

    def start(self, model: Transducer, batch: int, frame_shift_s: float) -> Started:
        """Opens the search of ``batch`` utterances, with ``frame_shift_s`` seconds between encoder frames."""
        options = self.options
        if self.method == GREEDY:
            return GreedySearch(
                model,
                batch,
                frame_shift_s=frame_shift_s,
                max_symbols=options.max_symbols,
                blank_penalty=options.blank_penalty,
            )
        kind = AlignmentLengthSearch if self.method == BEAM else ModifiedSearch
        return kind(model, batch, frame_shift_s=frame_shift_s, options=options, fusion=self.fusion)

    def __call__(
        self, model: Transducer, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, frame_shift_s: float
    ) -> list[list[Hypothesis]]:
        """The n-best lists of a complete batch, (B, T', D) with (B,) frames."""
        started = self.start(model, len(encoder_lens), frame_shift_s)
        started.accept(encoder_out, encoder_lens)
        return started.results()


def make_search(method: str, options: BeamOptions | None = None, fusion: Fusion | None = None) -> Search:
    """A search with its settings.

    Args:
        method: ``greedy``, ``beam`` or ``modified_beam``.
        options: of the search.
        fusion: language models for the beam searches.

    Raises:
        UserError: greedy search without a bound on the labels at one frame, or with language models.
    """
    options = options or BeamOptions()
    if method == GREEDY and options.max_symbols < 1:
        raise UserError("decode.max_symbols must be 1 or more for greedy search, which would not end without a bound")
    if method == GREEDY and fusion is not None:
        raise UserError("decode.fusion needs decode.method=beam or modified_beam")
    return Search(method, options, fusion)


def build_search(settings: DecodeConfig, bundle: ModelBundle[Transducer], device: torch.device) -> Search:
    """The search of an experiment, with the language models of the settings or else the recognizer's, on ``device``.

    Raises:
        UserError: settings contradict each other, or language models have other symbols.
    """
    options = BeamOptions(
        beam=settings.beam,
        nbest=settings.nbest,
        expand_beam=settings.expand_beam,
        score_margin=settings.score_margin or math.inf,
        max_symbols=settings.max_symbols,
        max_labels_per_frame=settings.max_labels_per_frame,
        blank_penalty=settings.blank_penalty,
        full_sum=settings.full_sum,
    )
    fusion = build_fusion(settings.fusion, bundle.tokenizer, device)
    if settings.fusion == FusionConfig() and settings.method != GREEDY:
        fusion = own_fusion(bundle, device)
    return make_search(settings.method, options, fusion)


def own_fusion(bundle: ModelBundle[Transducer], device: torch.device) -> Fusion | None:
    """The language models that a recognizer ships with, if any, on ``device``."""
    if bundle.fused is None:
        return None
    settings = bundle.fused.fusion
    weights = FusionWeights(settings.source_weight, settings.target_weight, settings.length_weight)
    models = {role: _for_search(lm.model, device) for role, lm in bundle.fused.models.items()}
    return Fusion(weights, models.get("target"), models.get("source"), settings.source_lm == INTERNAL)


def _for_search(model: LanguageModel, device: torch.device) -> LstmLanguageModel:
    assert isinstance(model, LstmLanguageModel)
    if device.type == "cpu":
        use_integers(model)
    return model.to(device)


def build_fusion(settings: FusionConfig, tokenizer: Tokenizer, device: torch.device) -> Fusion | None:
    """The language models of a search; None if no weight is set.

    Raises:
        UserError: a weight without a model, or a model with other symbols.
    """
    weights = FusionWeights(settings.source_weight, settings.target_weight, settings.length_weight)
    if weights == FusionWeights():
        return None
    return Fusion(weights, *read_fusion_models(settings, tokenizer, device))


def require_weights(settings: FusionConfig) -> None:
    """Refuses language models that would have no effect.

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
    """The external and the source language model, and whether the source is the transducer's internal one.

    Args:
        settings: of the fusion.
        tokenizer: of the recognizer.
        device: of the recognizer.
        all_given: also read models with weight 0, for tuning.

    Raises:
        UserError: a weight without a model, or a model with other symbols.
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
    return _for_search(bundle.model, device)
