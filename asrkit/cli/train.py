"""``asrkit train``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from asrkit.cli.common import PATH, config_options, exit_if_stopped, launch_if_several, processes_option
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.data.folder import DataFolder
from asrkit.data.upstream import require_current
from asrkit.distributed.learners import is_first_process
from asrkit.errors import UserError
from asrkit.export.onnx import obstacle
from asrkit.training.inputs import RESUME, is_finished, put_aside
from asrkit.training.run import other_folders, run_training, training_inputs
from asrkit.training.speech import MODEL

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
    "bl_just",
)
"""Sections of an experiment that training depends on."""


@click.command()
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--exp-dir", type=PATH, required=True, help="Where the experiment goes.")
@click.option("--force", is_flag=True, help="Train from the start; EXP_DIR is renamed to EXP_DIR.1, .2 and so on.")
@processes_option
@config_options
def train(
    data_dir: Path,
    exp_dir: Path,
    force: bool,
    processes: int,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a recognizer, or resume where an earlier run of the same experiment stopped.

    Several machines: torchrun --nnodes N --nproc-per-node M ... -m asrkit train ... on each.
    """
    config = load_config(config_path, overrides, reads=READS)
    folder = DataFolder(data_dir)
    if is_first_process():
        for prepared in (folder, *other_folders(config).values()):
            require_current(prepared)
        if force and "RANK" in os.environ:
            raise UserError("--force is not for torchrun; move the experiment's folder yourself")
        if force and exp_dir.exists():
            put_aside(exp_dir)
    if is_finished(config, exp_dir, MODEL, training_inputs(config, folder)):
        log(f"done before: {exp_dir / MODEL} ({RESUME})")
        return
    command: list[str | Path] = ["train", "--data-dir", data_dir, "--exp-dir", exp_dir, *overrides]
    command += ["--config", config_path] if config_path else []
    launch_if_several(processes, command, exp_dir, config.train)
    with exit_if_stopped():
        reason = obstacle(config)
        note = f"asrkit export --onnx, for sherpa-onnx, cannot write this model, as {reason}" if reason else ""
        run_training(config, data_dir, exp_dir, note=note)
