"""``asrkit train``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from asrkit.cli.common import PATH, config_options, done_before, experiment
from asrkit.training.launch import launch
from asrkit.training.progress import log
from asrkit.training.run import run_training
from asrkit.training.trainer import Stopped


@click.command()
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--exp-dir", type=PATH, required=True, help="Where the experiment goes.")
@click.option("--processes", default=1, show_default=True, help="Training processes on this machine.")
@config_options
def train(data_dir: Path, exp_dir: Path, processes: int, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Train a model, or go on where an earlier run of the same experiment stopped.

    Several machines: torchrun --nnodes N --nproc-per-node M ... -m asrkit train ... on each of them.
    """
    config = experiment(config_path, overrides)
    if done_before([exp_dir / "averaged.safetensors"], force=False, again="another --exp-dir trains anew"):
        return
    if processes > 1 and "RANK" not in os.environ:
        command = ["train", "--data-dir", str(data_dir), "--exp-dir", str(exp_dir), *overrides]
        if config_path:
            command += ["--config", str(config_path)]
        raise SystemExit(launch(processes, command, exp_dir / "log"))
    try:
        run_training(config, data_dir, exp_dir)
    except Stopped as stop:
        log(f"stopped by {stop}; everything is saved, run the same command to go on")
        raise SystemExit(stop.exit_code) from None
