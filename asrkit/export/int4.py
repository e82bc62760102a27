"""Exports the recognizer at 4 bits with its language models in one file, if its WER hardly increases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from asrkit.bundle.model_file import (
    FusedModels,
    ModelBundle,
    language_model_of,
    load_recognizer,
    read_model_file,
    recognizer_of,
    save_recognizer,
)
from asrkit.config import DecodeConfig, FusionConfig
from asrkit.config_files import CONF_DIR, load_config
from asrkit.config_quantization import QuantizationConfig
from asrkit.console import log
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import transcript
from asrkit.decoding.decode import decode_split
from asrkit.decoding.search import INTERNAL, build_fusion
from asrkit.errors import UserError
from asrkit.export.post_training import REWRITE, quantize_language_model, quantize_recognizer
from asrkit.files import atomic_path
from asrkit.models.language_model import LanguageModel
from asrkit.models.transducer import Transducer
from asrkit.quantization.packing import quantized_weights
from asrkit.quantization.qat import restore_layers
from asrkit.scoring.wer import word_error_rate

POLICIES = {"blstm": "int4_rnnt", "conformer": "int4_conformer", "dssformer": "int4_conformer"}
"""The file in ``conf/quantize`` for a float model, by encoder type."""
CALIBRATION_UTTERANCES = 64


def export_int4(
    source: Path,
    target: Path,
    folder: DataFolder,
    split: str,
    settings: DecodeConfig,
    max_wer_loss: float,
    against: Path | None = None,
    begin: Callable[[], None] = lambda: None,
) -> ModelBundle[Transducer]:
    """Writes a recognizer with 4-bit weights and activations, and its language models.

    Args:
        source: a model that was trained with quantizers; a float one is quantized with bounds from training utterances.
        target: the file to write.
        folder: prepared data.
        split: decoded at both precisions.
        settings: of the search; the language models of ``settings.fusion`` are written to the file with their weights.
        max_wer_loss: allowed increase of WER on the split, in points.
        against: the float model to compare with; by default ``source`` without quantizers.
        begin: called before the file is written.

    Returns:
        The recognizer in the file.

    Raises:
        UserError: inputs cannot be used, or the loss is greater, in which case nothing is written.
    """
    file = read_model_file(source)
    reference = recognizer_of(read_model_file(against) if against else file)
    restore_layers(reference.model)
    bundle = recognizer_of(file)
    if REWRITE not in bundle.config.rewrites:
        kind = bundle.config.model.encoder.type
        if kind not in POLICIES:
            raise UserError(f"{source}: conf/quantize has no policy for a {kind}; train it with quantizers first")
        policy = _policy(POLICIES[kind])
        bundle = quantize_recognizer(bundle, policy, folder, "train", CALIBRATION_UTTERANCES)
    _require_4_bits(source, bundle.model)
    if build_fusion(settings.fusion, bundle.tokenizer, bundle.model.device) is not None:
        bundle = replace(bundle, fused=_fused(settings.fusion, folder))
    before = word_error_rate_of(reference, folder, split, settings)
    begin()
    with atomic_path(target) as temporary:
        save_recognizer(temporary, bundle, packed=True)
        search_settings = replace(settings, fusion=FusionConfig())  # the file contains the language models
        after = word_error_rate_of(load_recognizer(temporary), folder, split, search_settings)
        refuse_loss(target, split, before, after, max_wer_loss)
    return bundle


def refuse_loss(target: Path, split: str, before: float, after: float, most: float) -> None:
    """Logs the WER of a split, in %, before and after export.

    Raises:
        UserError: it increases by more than ``most`` points.
    """
    log(f"WER of {split}: {before:.2f} % in floating point, {after:.2f} % as exported")
    if after > before + most:
        raise UserError(
            f"{target} is not written: on {split} it costs {after - before:.2f} points of WER, more than "
            f"--max-wer-loss {most:g}; train on with quantizers (train.init_from) or allow more"
        )


def _require_4_bits(path: Path, model: Transducer) -> None:
    if all(quantizer.bits > 4 for _, _, quantizer in quantized_weights(model)):
        raise UserError(
            f"{path} is quantized to more than 4 bits; give --int4 the float model, or one trained at 4 bits"
        )


def _policy(name: str) -> QuantizationConfig:
    return load_config(CONF_DIR / "quantize" / f"{name}.yaml").quantization


def _fused(fusion: FusionConfig, folder: DataFolder) -> FusedModels:
    models: dict[str, ModelBundle[LanguageModel]] = {}
    for role, path in (("target", fusion.target_lm), ("source", fusion.source_lm)):
        weight = fusion.target_weight if role == "target" else fusion.source_weight
        if not path or path == INTERNAL or weight == 0:
            continue
        lm = language_model_of(read_model_file(Path(path)))
        if REWRITE not in lm.config.rewrites:
            lm = quantize_language_model(lm, _policy("int4_lm"), folder, "train", CALIBRATION_UTTERANCES)
        models[role] = lm
    source_lm = INTERNAL if fusion.source_lm == INTERNAL else ""
    return FusedModels(replace(fusion, target_lm="", source_lm=source_lm), models)


def word_error_rate_of(
    bundle: ModelBundle[Transducer], folder: DataFolder, split: str, settings: DecodeConfig
) -> float:
    """The WER of a recognizer on a split, in %; a copy decodes, so that the model is unchanged."""
    bundle = replace(bundle, model=copy.deepcopy(bundle.model))
    pairs: Sequence[tuple[str, str]] = [
        (transcript(cut), bundle.tokenizer.decode(nbest[0].tokens) if nbest else "")
        for cut, nbest in decode_split(bundle, folder, split, settings).lists
    ]
    return word_error_rate(pairs)
