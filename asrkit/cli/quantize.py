"""``asrkit quantize``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from asrkit.bundle.model_file import (
    RECOGNIZER,
    language_model_of,
    part_of,
    read_model_file,
    recognizer_of,
    save_language_model,
    save_recognizer,
)
from asrkit.cli.common import PATH, already_done, config_options, make_folder
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.data.folder import DataFolder
from asrkit.export.post_training import quantize_language_model, quantize_recognizer
from asrkit.files import companion
from asrkit.records import INPUTS, Record, digest


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A float recognizer or language model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--split", default="train", show_default=True, help="train, dev or test: its features give the bounds.")
@click.option("--utterances", type=click.IntRange(min=1), default=64, show_default=True, help="Taken from the split.")
@click.option("--output", type=PATH, required=True, help="The .safetensors file to write.")
@click.option("--force", is_flag=True, help="Quantize again even if it is done.")
@config_options
def quantize(
    model_path: Path,
    data_dir: Path,
    split: str,
    utterances: int,
    output: Path,
    force: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Quantize a trained model without training it. The configuration names the layers: conf/quantize/*.yaml."""
    policies = load_config(config_path, overrides, command="quantize", reads=("quantization",)).quantization
    folder = DataFolder(data_dir)
    inputs = {
        "stage": "quantize",
        "digest of model": digest(model_path),
        "digest of cuts": digest(folder.features(split)),
        "--utterances": utterances,
        "quantization": asdict(policies),
    }
    record = Record(companion(output, f".{INPUTS}"), inputs, complete=True)
    if already_done([output], record, force):
        return
    make_folder(output.parent)
    source = read_model_file(model_path)
    if source.kind == RECOGNIZER:
        recognizer = quantize_recognizer(recognizer_of(source), policies, folder, split, utterances)
        record.begin()
        # With the training-only heads, for quantization-aware training that starts from the output.
        save_recognizer(output, recognizer, part_of(source.tensors, "objective"))
    else:
        lm = quantize_language_model(language_model_of(source), policies, folder, split, utterances)
        record.begin()
        save_language_model(output, lm)
    record.keep()
    log(f"quantized {model_path} into {output}")
