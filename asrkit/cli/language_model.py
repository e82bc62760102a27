"""``asrkit train-lm``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import GO_ON, PATH, config_options, done_before, experiment, told_when_stopped
from asrkit.training.language_model import require_same_text, train_language_model
from asrkit.training.run import is_finished, load_tokenizer


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
    tokenizer, model = load_tokenizer(data_dir), "best.safetensors"
    if is_finished(config, exp_dir, model):
        require_same_text(tokenizer, text, dev_text, exp_dir)
        if done_before([exp_dir / model], force=False, again=GO_ON):
            return
    with told_when_stopped():
        train_language_model(config, tokenizer, text, dev_text, exp_dir)
