"""``asrkit train``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH, config_options, launch_if_several, processes_option, told_when_stopped
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.training.inputs import RESUME, is_finished
from asrkit.training.speech import MODEL, run_training

READS = (
    "features",
    "nbest_label_smoothing",
    "length_perturbation",
    "sequence_noise",
    "spec_augment",
    "tokenizer",
    "model",
    "quantization",
    "rewrites",
    "loss",
    "train",
)
"""Sections of an experiment that training depends on."""


@click.command()
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--exp-dir", type=PATH, required=True, help="Where the experiment goes.")
@processes_option
@config_options
def train(data_dir: Path, exp_dir: Path, processes: int, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Train a recognizer, or resume where an earlier run of the same experiment stopped.

    Several machines: torchrun --nnodes N --nproc-per-node M ... -m asrkit train ... on each of them.
    """
    config = load_config(config_path, overrides, reads=READS)
    if is_finished(config, exp_dir, MODEL):
        log(f"done before: {exp_dir / MODEL} ({RESUME})")
        return
    command: list[str | Path] = ["train", "--data-dir", data_dir, "--exp-dir", exp_dir, *overrides]
    command += ["--config", config_path] if config_path else []
    launch_if_several(processes, command, exp_dir)
    with told_when_stopped():
        run_training(config, data_dir, exp_dir)
