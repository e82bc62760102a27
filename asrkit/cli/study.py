"""``asrkit study``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH
from asrkit.errors import UserError
from asrkit.studies.cot_experiments import run_cot
from asrkit.studies.icl_experiments import run_icl
from asrkit.studies.image_experiments import run_images

IMAGES = "cifar10"
STUDIES = {"icl": run_icl, "cot": run_cot}


@click.command()
@click.argument("name", type=click.Choice(sorted([*STUDIES, IMAGES])))
@click.option("--out-dir", type=PATH, required=True, help="Where numbers, figures and RESULTS.md go.")
@click.option("--data-dir", type=PATH, help="CIFAR-10: cifar-10-batches-py, or train.zip and test.zip.")
@click.option("--full", is_flag=True, help="The papers' scale: hours instead of minutes.")
def study(name: str, out_dir: Path, data_dir: Path | None, full: bool) -> None:
    """Run a study of learning: icl (in-context learning), cot (chain of thought) or cifar10 (sampling of images)."""
    if name != IMAGES:
        STUDIES[name](out_dir, full)
    elif data_dir is None:
        raise UserError("the study of images needs --data-dir, a folder with CIFAR-10")
    else:
        run_images(out_dir, data_dir, full)
    click.echo(f"{out_dir / 'RESULTS.md'}")
