"""``asrkit study``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH
from asrkit.studies.cot_experiments import run_cot
from asrkit.studies.icl_experiments import run_icl

STUDIES = {"icl": run_icl, "cot": run_cot}


@click.command()
@click.argument("name", type=click.Choice(sorted(STUDIES)))
@click.option("--out-dir", type=PATH, required=True, help="Where numbers, figures and RESULTS.md go.")
@click.option("--full", is_flag=True, help="More seeds, prompts and steps: hours instead of minutes.")
def study(name: str, out_dir: Path, full: bool) -> None:
    """Run a study of learning: icl (in-context learning) or cot (chain of thought)."""
    STUDIES[name](out_dir, full)
    click.echo(f"{out_dir / 'RESULTS.md'}")
