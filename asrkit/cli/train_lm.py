"""``asrkit train-lm``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH, config_options, exit_if_stopped, launch_if_several, processes_option
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.data.folder import DataFolder
from asrkit.training.inputs import RESUME, is_finished
from asrkit.training.language_model import MODEL, require_text_of_version_1, text_inputs, train_language_model


@click.command("train-lm")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data, whose tokenizer is used.")
@click.option(
    "--text", type=PATH, multiple=True, required=True, help="Text, one sentence per line, or cuts; .gz or not."
)
@click.option("--dev-text", type=PATH, multiple=True, required=True, help="The same, for the perplexity per epoch.")
@click.option("--exp-dir", type=PATH, required=True, help="Where the experiment goes.")
@processes_option
@config_options
def train_lm(
    data_dir: Path,
    text: tuple[Path, ...],
    dev_text: tuple[Path, ...],
    exp_dir: Path,
    processes: int,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a language model on text files or transcripts, or resume where an earlier run stopped."""
    config = load_config(config_path, overrides, command="train-lm", reads=("lm", "train", "quantization", "rewrites"))
    folder = DataFolder(data_dir)
    require_text_of_version_1(exp_dir, folder.load_tokenizer(), text, dev_text)
    if is_finished(config, exp_dir, MODEL, text_inputs(folder.tokenizer, text, dev_text), "train-lm"):
        log(f"done before: {exp_dir / MODEL} ({RESUME})")
        return
    command: list[str | Path] = ["train-lm", "--data-dir", data_dir, "--exp-dir", exp_dir, *overrides]
    for path in text:
        command += ["--text", path]
    for path in dev_text:
        command += ["--dev-text", path]
    command += ["--config", config_path] if config_path else []
    launch_if_several(processes, command, exp_dir, config.train)
    with exit_if_stopped():
        train_language_model(config, folder.tokenizer, text, dev_text, exp_dir)
