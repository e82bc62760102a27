"""Post-training quantization: bounds from a few utterances, weights unchanged.

It adds the quantizers of :mod:`asrkit.quantization.qat` to a trained model: the policies of ``quantization.layers``
select the layers, and the model's computation on speech or text sets the bounds. The result is an ordinary model, which
can be decoded, exported, and trained further with ``train.init_from``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from lhotse.cut import Cut
from torch import nn

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import Model, ModelBundle
from asrkit.config_quantization import QuantizationConfig
from asrkit.console import progress_bar
from asrkit.data.folder import DataFolder
from asrkit.data.loaders import in_batches
from asrkit.data.transcripts import encode_transcript
from asrkit.errors import UserError
from asrkit.models.language_model import LanguageModel
from asrkit.models.transducer import Transducer
from asrkit.quantization.qat import calibrate, quantize_layers
from asrkit.quantization.quantizers import Quantizer, calibrated
from asrkit.text.tokenizer import Tokenizer

REWRITE = "quantize"
BATCH_SECONDS = 60.0


def quantize_recognizer(
    bundle: ModelBundle[Transducer], policies: QuantizationConfig, folder: DataFolder, split: str, number: int
) -> ModelBundle[Transducer]:
    """Quantizes a recognizer in place, with bounds from utterances of a split and their transcripts.

    Args:
        bundle: a float recognizer.
        policies: of the layers.
        folder: prepared data with the same symbols.
        split: of ``folder``.
        number: utterances, drawn with a fixed seed.

    Returns:
        The recognizer with its new configuration.

    Raises:
        UserError: it is already quantized, the policies do not fit it, the data have other symbols or cannot be read,
            or a quantized layer was not used.
    """
    quantized = _rewritten(bundle, policies)
    cuts = _sample_cuts(folder, split, number)
    _require_symbols(folder, bundle.tokenizer)
    pipeline = build_pipeline(bundle.config, folder.load_statistics() | bundle.statistics)
    with calibrate(quantized.model), progress_bar("calibrate", len(cuts)) as bar:
        for batch in in_batches(cuts, pipeline, BATCH_SECONDS, bundle.tokenizer):
            encoder_out, encoder_lens = quantized.model.encoder(batch.features, batch.feature_lens)
            predictor_out = quantized.model.predictor(batch.tokens)
            quantized.model.joiner.packed(encoder_out, predictor_out, encoder_lens, batch.token_lens)
            for _ in range(batch.num_utterances):
                bar.advance()
    _require_calibrated(quantized.model)
    return quantized


def quantize_language_model(
    bundle: ModelBundle[LanguageModel], policies: QuantizationConfig, folder: DataFolder, split: str, number: int
) -> ModelBundle[LanguageModel]:
    """Quantizes a language model in place, with bounds from transcripts of a split; see :func:`quantize_recognizer`."""
    quantized = _rewritten(bundle, policies)
    cuts = _sample_cuts(folder, split, number)
    _require_symbols(folder, bundle.tokenizer)
    with calibrate(quantized.model), progress_bar("calibrate", len(cuts)) as bar:
        for cut in cuts:
            quantized.model(torch.tensor([encode_transcript(bundle.tokenizer, cut)]))
            bar.advance()
    _require_calibrated(quantized.model)
    return quantized


def _rewritten(bundle: ModelBundle[Model], policies: QuantizationConfig) -> ModelBundle[Model]:
    if REWRITE in bundle.config.rewrites:
        raise UserError("the model is quantized already; give the float model that it was made from")
    config = replace(bundle.config, quantization=policies, rewrites=[*bundle.config.rewrites, REWRITE])
    quantize_layers(bundle.model, config)
    return replace(bundle, config=config)


def _sample_cuts(folder: DataFolder, split: str, number: int) -> Sequence[Cut]:
    cuts = sorted(folder.read_features(split), key=lambda cut: str(cut.id))
    return random.Random(0).sample(cuts, min(number, len(cuts)))


def _require_symbols(folder: DataFolder, tokenizer: Tokenizer) -> None:
    if folder.load_tokenizer().to_dict() != tokenizer.to_dict():
        raise UserError(f"{folder.tokenizer} has other symbols than the model; give the data that it was trained on")


def _require_calibrated(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, Quantizer) and not calibrated([module]):
            raise UserError(
                f"{name} has no bounds: its layer took no part or saw zeros only; leave it out of the policies"
            )
