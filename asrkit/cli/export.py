"""``asrkit export | transcribe``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from torch import nn

from asrkit.bundle.model_file import load_recognizer
from asrkit.cli.common import PATH, already_done, config_options
from asrkit.config_files import load_config
from asrkit.console import log, progress_bar
from asrkit.data.folder import DataFolder
from asrkit.decoding.search import METHODS, require_weights
from asrkit.errors import UserError, shown
from asrkit.export.int4 import export_int4, refuse_loss, word_error_rate_of
from asrkit.export.onnx import DECODER, ENCODER, JOINER, TOKENS, export_onnx, require_servable
from asrkit.export.onnx_weights import round_weights
from asrkit.export.recognizer import Recognizer, export_model
from asrkit.export.transcripts import FORMATS, SUFFIXES, output_paths, recordings
from asrkit.features.audio_files import num_channels
from asrkit.features.listen import LOUDEST, MIX, SPLIT, channel_choice
from asrkit.files import companion, write_text
from asrkit.quantization.qat import quantizers
from asrkit.quantization.size import size_table
from asrkit.records import INPUTS, Record, digest


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint, or a language model.")
@click.option("--output", type=PATH, required=True, help="The .safetensors file to write, or the folder.")
@click.option("--onnx", is_flag=True, help="Write the folder OUTPUT with the ONNX files that sherpa-onnx reads.")
@click.option(
    "--int4", is_flag=True, help="Write 4-bit weights, with the language models of decode.fusion; needs --data-dir."
)
@click.option(
    "--onnx-bits",
    type=click.Choice(["32", "8", "4"]),
    default="32",
    show_default=True,
    help="Bits of a weight in the ONNX files.",
)
@click.option("--data-dir", type=PATH, help="Prepared data for the bounds and the test of fewer bits.")
@click.option("--split", default="dev", show_default=True, help="Decoded in both precisions.")
@click.option(
    "--max-wer-loss",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Points of WER that fewer bits may cost on the split; if they cost more, nothing is written.",
)
@click.option(
    "--against", type=PATH, help="The float model to compare with; by default the model without its quantizers."
)
@click.option("--force", is_flag=True, help="Export again even if it is done.")
@config_options
def export(
    model_path: Path,
    output: Path,
    onnx: bool,
    int4: bool,
    onnx_bits: str,
    data_dir: Path | None,
    split: str,
    max_wer_loss: float,
    against: Path | None,
    force: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Write one file with weights, feature statistics, tokenizer and configuration, or a folder of ONNX files.

    The single file stores quantized weights as codes, 4-bit ones two per byte; the sizes of the parts are printed. With
    --int4, a float model is quantized first. The configuration's decode.* settings say how fewer bits are tested; for
    ONNX files, the test rounds the weights, while ONNX Runtime may also round activations to 8 bits.
    """
    bits = int(onnx_bits)
    fewer = int4 or bits < 32
    if int4 and onnx:
        raise UserError("--int4 writes one file; --onnx takes --onnx-bits 4")
    if bits < 32 and not onnx:
        raise UserError("--onnx-bits is for --onnx")
    if fewer and data_dir is None:
        raise UserError("fewer bits need --data-dir, to measure what they cost")
    if not fewer and (config_path or overrides or data_dir or against):
        raise UserError("only an export with fewer bits is tested: drop --data-dir, --against and decode.* settings")
    if against and not int4:
        raise UserError("--against is for --int4; ONNX files are compared with the model that they are exported from")
    path = output / INPUTS if onnx else companion(output, f".{INPUTS}")
    inputs: dict[str, Any] = {"digest of model": digest(model_path), "--int4": int4, "--onnx-bits": bits}
    settings = load_config(config_path, overrides, reads=("decode",)).decode
    if data_dir is not None and fewer:
        inputs |= {"decode": asdict(settings), "--max-wer-loss": max_wer_loss, "--split": split}
        inputs |= {
            f"digest of {name}": digest(file)
            for name, file in {
                "cuts": DataFolder(data_dir).features(split),
                "training cuts": DataFolder(data_dir).features("train"),
                "target_lm": Path(settings.fusion.target_lm),
                "source_lm": Path(settings.fusion.source_lm),
                "--against": against or Path(),
            }.items()
        }
    record = Record(path, inputs, {"--int4": False, "--onnx-bits": 32})
    if already_done([output / TOKENS if onnx else output], record, force):
        return
    if onnx:
        bundle = load_recognizer(model_path)
        require_servable(bundle)
        if data_dir is not None and fewer:
            before = word_error_rate_of(bundle, DataFolder(data_dir), split, settings)
            round_weights(bundle.model, bits)
            after = word_error_rate_of(bundle, DataFolder(data_dir), split, settings)
            refuse_loss(output, split, before, after, max_wer_loss)
        export_onnx(bundle, output, record.begin, bits)
        log(f"exported {output} for sherpa-onnx: {ENCODER}, {DECODER}, {JOINER}, {TOKENS}")
        record.keep()
        return
    if data_dir is not None and int4:
        require_weights(settings.fusion)
        exported = export_int4(
            model_path, output, DataFolder(data_dir), split, settings, max_wer_loss, against, record.begin
        )
        models: list[nn.Module] = [exported.model]
        models += [lm.model for lm in (exported.fused.models if exported.fused else {}).values()]
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
@click.option("--method", type=click.Choice(METHODS), help="By default beam with language models, greedy without.")
@click.option("--beam", type=click.IntRange(min=1), default=8, show_default=True, help="Hypotheses kept.")
@click.option("--channel", default=LOUDEST, show_default=True, help=f"A number from 0, {LOUDEST}, {MIX} or {SPLIT}.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json: one object per line, times and scores.")
@click.option("--output", type=PATH, help="A folder that gets one file for each recording.")
def transcribe(
    model: Path,
    audio: tuple[Path, ...],
    method: str | None,
    beam: int,
    channel: str,
    form: str,
    as_json: bool,
    output: Path | None,
) -> None:
    """Transcribe recordings with an exported model: files, folders, lists of files (.txt, .lst, .scp), or - for a list.

    A recording that cannot be read is named, and the others are transcribed; the exit code is then 2.
    """
    form = "json" if as_json else form
    named = recordings(audio)
    channels = [("", channel_choice(channel))] * len(named)
    if channel == SPLIT:
        split = [(path, name, n) for path, name in named for n in range(num_channels(path))]
        named = [(path, name.with_stem(f"{name.stem}-{n}")) for path, name, n in split]
        channels = [(f" channel {n}", str(n)) for _, _, n in split]
    if form in ("srt", "vtt") and len(named) > 1 and output is None:
        raise UserError(f"{form} is one file for each recording; give --output a folder for them")
    targets = output_paths([name for _, name in named], output, SUFFIXES[form]) if output else [None] * len(named)
    recognizer = Recognizer(model, method, beam)
    failed = 0
    with progress_bar("transcribe", len(named), show=output is not None) as bar:
        for (path, _), (label, which), target in zip(named, channels, targets, strict=True):
            try:
                transcript = recognizer.transcribe(path, which)
            except UserError as error:
                failed += 1
                print(f"asrkit: {error}", file=sys.stderr)
                if form == "json" and target is None:
                    click.echo(json.dumps({"path": shown(str(path)), "error": str(error)}, ensure_ascii=False))
                continue
            finally:
                bar.advance(shown(path.name))
            for warning in transcript.warnings:
                print(f"asrkit: {shown(str(path))}: {warning}", file=sys.stderr)
            text = FORMATS[form](transcript)
            if target is not None:
                write_text(target, text + "\n")
            elif form == "text" and len(named) > 1:
                click.echo(f"{shown(str(path))}{label}: {text}")
            else:
                click.echo(text)
    if failed:
        if len(named) > 1:
            print(f"asrkit: {failed} of {len(named)} recordings could not be transcribed", file=sys.stderr)
        raise SystemExit(2)
