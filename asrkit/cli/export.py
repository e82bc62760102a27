"""``asrkit export | transcribe``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from torch import nn

from asrkit.bundle.model_file import load_recognizer
from asrkit.cli.common import PATH, config_options
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.data.folder import DataFolder
from asrkit.decoding.search import GREEDY, METHODS, require_weights
from asrkit.errors import UserError
from asrkit.export.int4 import export_int4
from asrkit.export.onnx import DECODER, ENCODER, JOINER, TOKENS, export_onnx
from asrkit.export.recognizer import Recognizer, export_model
from asrkit.quantization.qat import quantizers
from asrkit.quantization.size import size_table
from asrkit.records import INPUTS, Record, digest, is_done


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint, or a language model.")
@click.option("--output", type=PATH, required=True, help="The .safetensors file to write, or the folder.")
@click.option("--onnx", is_flag=True, help="Write the folder OUTPUT with the ONNX files that sherpa-onnx reads.")
@click.option(
    "--int4", is_flag=True, help="Write 4-bit weights, with the language models of decode.fusion; needs --data-dir."
)
@click.option("--data-dir", type=PATH, help="Prepared data, which --int4 takes bounds from and is tested on.")
@click.option("--split", default="dev", show_default=True, help="Decoded by --int4 in both precisions.")
@click.option(
    "--max-wer-loss",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Points of WER that --int4 may cost there; where it costs more, nothing is written.",
)
@click.option("--against", type=PATH, help="The float model to compare with; else the model without its quantizers.")
@click.option("--force", is_flag=True, help="Export again where it is done.")
@config_options
def export(
    model_path: Path,
    output: Path,
    onnx: bool,
    int4: bool,
    data_dir: Path | None,
    split: str,
    max_wer_loss: float,
    against: Path | None,
    force: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Write one file with weights, feature statistics, tokenizer and configuration, or a folder of ONNX files.

    The one file has quantized weights as their codes, 4-bit ones two a byte; the sizes of the parts are printed. With
    --int4 a float model is quantized first, and the configuration's decode.* settings say how it is tested.
    """
    if int4 and (onnx or data_dir is None):
        raise UserError("--int4 needs --data-dir, and writes one file, not --onnx")
    if not int4 and (config_path or overrides):
        raise UserError("only export --int4 reads a configuration, its decode.* settings")
    path = output / INPUTS if onnx else output.with_name(f"{output.name}.{INPUTS}")
    inputs: dict[str, Any] = {"digest of model": digest(model_path)}
    settings = load_config(config_path, overrides, reads=("decode",)).decode
    if data_dir is not None and int4:
        inputs |= {"decode": asdict(settings), "--max-wer-loss": max_wer_loss, "--split": split}
        inputs |= {
            f"digest of {name}": digest(file)
            for name, file in {
                "cuts": DataFolder(data_dir).features(split),
                "target_lm": Path(settings.fusion.target_lm),
                "source_lm": Path(settings.fusion.source_lm),
                "--against": against or Path(),
            }.items()
        }
    record = Record(path, inputs)
    if is_done([output / TOKENS if onnx else output], record, force):
        return
    if onnx:
        export_onnx(load_recognizer(model_path), output, record.begin)
        log(f"exported {output} for sherpa-onnx: {ENCODER}, {DECODER}, {JOINER}, {TOKENS}")
        record.keep()
        return
    if data_dir is not None and int4:
        require_weights(settings.fusion)
        record.begin()
        bundle = export_int4(model_path, output, DataFolder(data_dir), split, settings, max_wer_loss, against)
        models: list[nn.Module] = [bundle.model]
        models += [lm.model for lm in (bundle.fused.models if bundle.fused else {}).values()]
    else:
        models = [export_model(model_path, output, record.begin)]
    log(f"exported {output} ({output.stat().st_size / 1e6:.1f} MB)")
    for model in models:
        if quantizers(model):
            click.echo(size_table(model))
    record.keep()


@click.command()
@click.argument("model", type=PATH)
@click.argument("audio", nargs=-1, required=True, type=PATH)
@click.option("--method", type=click.Choice(METHODS), default=GREEDY, show_default=True)
@click.option("--beam", type=click.IntRange(min=1), default=8, show_default=True, help="Hypotheses kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, with times and scores.")
def transcribe(model: Path, audio: tuple[Path, ...], method: str, beam: int, as_json: bool) -> None:
    """Transcribe audio files with an exported model."""
    recognizer = Recognizer(model, method, beam)
    for path in audio:
        transcript = recognizer.transcribe(path)
        if as_json:
            values = {"path": transcript.path, "text": transcript.text, "duration": transcript.duration_s}
            click.echo(json.dumps(values | transcript.details, ensure_ascii=False))
        else:
            click.echo(f"{transcript.path}: {transcript.text}" if len(audio) > 1 else transcript.text)
