"""``asrkit train``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH, config_options, done_before, experiment
from asrkit.training.progress import log
from asrkit.training.run import run_training
from asrkit.training.trainer import Stopped


@click.command()
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--exp-dir", type=PATH, required=True, help="Where the experiment goes.")
@config_options
def train(data_dir: Path, exp_dir: Path, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Train a model, or go on where an earlier run of the same experiment stopped.

    Several processes: torchrun --nproc-per-node N -m asrkit train ...
    """
    config = experiment(config_path, overrides)
    if done_before([exp_dir / "averaged.safetensors"], force=False):
        return
    try:
        run_training(config, data_dir, exp_dir)
    except Stopped as stop:
        log(f"stopped by {stop}; everything is saved, run the same command to go on")
        raise SystemExit(stop.exit_code) from None
