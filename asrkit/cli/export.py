"""``asrkit export | transcribe``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from asrkit.bundle.model_file import load_recognizer
from asrkit.cli.common import PATH
from asrkit.console import log
from asrkit.decoding.search import GREEDY, METHODS
from asrkit.export.onnx import DECODER, ENCODER, JOINER, TOKENS, export_onnx
from asrkit.export.recognizer import Recognizer, export_model
from asrkit.quantization.qat import quantizers
from asrkit.quantization.size import size_table
from asrkit.records import INPUTS, Record, digest, is_done


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint, or a language model.")
@click.option("--output", type=PATH, required=True, help="The .safetensors file to write, or the folder.")
@click.option("--onnx", is_flag=True, help="Write the folder OUTPUT with the ONNX files that sherpa-onnx reads.")
@click.option("--force", is_flag=True, help="Export again where it is done.")
def export(model_path: Path, output: Path, onnx: bool, force: bool) -> None:
    """Write one file with weights, feature statistics, tokenizer and configuration, or a folder of ONNX files.

    The one file has quantized weights as their codes, 4-bit ones two a byte; the sizes of the parts are printed.
    """
    path = output / INPUTS if onnx else output.with_name(f"{output.name}.{INPUTS}")
    record = Record(path, {"digest of model": digest(model_path)})
    if is_done([output / TOKENS if onnx else output], record, force):
        return
    if onnx:
        export_onnx(load_recognizer(model_path), output, record.begin)
        log(f"exported {output} for sherpa-onnx: {ENCODER}, {DECODER}, {JOINER}, {TOKENS}")
    else:
        model = export_model(model_path, output, record.begin)
        log(f"exported {output} ({output.stat().st_size / 1e6:.1f} MB)")
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
