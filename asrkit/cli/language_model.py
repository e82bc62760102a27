"""``asrkit train-lm``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH, config_options, done_before, experiment
from asrkit.training.language_model import train_language_model
from asrkit.training.run import load_tokenizer


@click.command("train-lm")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data, whose tokenizer is used.")
@click.option("--text", type=PATH, multiple=True, required=True, help="Text, a sentence a line (.gz or not), or cuts.")
@click.option("--dev-text", type=PATH, multiple=True, required=True, help="The same, for the perplexity by epoch.")
@click.option("--exp-dir", type=PATH, required=True, help="Where the experiment goes.")
@config_options
def train_lm(
    data_dir: Path,
    text: tuple[Path, ...],
    dev_text: tuple[Path, ...],
    exp_dir: Path,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a language model on text files or transcripts, or go on where an earlier run stopped."""
    config = experiment(config_path, overrides)
    if done_before([exp_dir / "best.safetensors"], force=False, again="another --exp-dir trains anew"):
        return
    train_language_model(config, load_tokenizer(data_dir), text, dev_text, exp_dir)
