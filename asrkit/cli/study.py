"""``asrkit study``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from asrkit.cli.common import PATH
from asrkit.errors import UserError
from asrkit.studies.cot_experiments import run_cot
from asrkit.studies.icl_experiments import run_icl
from asrkit.studies.image_experiments import run_images
from asrkit.studies.large_batch_suite import run_large_batches

STUDIES = {"icl": run_icl, "cot": run_cot}
WITH_DATA: dict[str, Callable[[Path, Path, bool], object]] = {"cifar10": run_images, "large_batches": run_large_batches}


@click.command()
@click.argument("name", type=click.Choice(sorted([*STUDIES, *WITH_DATA])))
@click.option("--out-dir", type=PATH, required=True, help="Where numbers, figures and RESULTS.md go.")
@click.option(
    "--data-dir", type=PATH, help="CIFAR-10: cifar-10-batches-py, or train.zip and test.zip; or frames of asrkit align."
)
@click.option("--full", is_flag=True, help="The papers' scale: hours instead of minutes.")
def study(name: str, out_dir: Path, data_dir: Path | None, full: bool) -> None:
    """Run a study of learning: icl (in-context learning), cot (chain of thought), cifar10 (sampling of images) or
    large_batches (synchronous and decentralized learners)."""
    if name in STUDIES:
        STUDIES[name](out_dir, full)
    elif data_dir is None:
        raise UserError(f"the study {name} needs --data-dir, a folder with CIFAR-10")
    else:
        WITH_DATA[name](out_dir, data_dir, full)
    click.echo(f"{out_dir / 'RESULTS.md'}")
