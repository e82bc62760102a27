"""``asrkit train``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from asrkit.cli.common import GO_ON, PATH, config_options, done_before, experiment, make_folder, told_when_stopped
from asrkit.training.launch import launch
from asrkit.training.run import is_finished, run_training


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
    model = "averaged.safetensors"
    if is_finished(config, exp_dir, model) and done_before([exp_dir / model], force=False, again=GO_ON):
        return
    if processes > 1 and "RANK" not in os.environ:
        command = ["train", "--data-dir", str(data_dir), "--exp-dir", str(exp_dir), *overrides]
        if config_path:
            command += ["--config", str(config_path)]
        make_folder(exp_dir / "log")
        raise SystemExit(launch(processes, command, exp_dir / "log"))
    with told_when_stopped():
        run_training(config, data_dir, exp_dir)
