"""``asrkit report``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH
from asrkit.console import log
from asrkit.files import atomic_path
from asrkit.models.dss_spectrum import dss_spectra, plot_dss_spectra
from asrkit.scoring.bilevel import KEY, bilevel_table, plot_bilevel
from asrkit.scoring.experiment import read_experiment, table
from asrkit.scoring.learners import KEY as LEARNERS
from asrkit.scoring.learners import learners_table, plot_learners
from asrkit.scoring.page import write_page


@click.command()
@click.argument("exp_dirs", nargs=-1, required=True, type=PATH)
@click.option("--html", type=PATH, help="Write a page with curves, comparisons and all utterances with their errors.")
def report(exp_dirs: tuple[Path, ...], html: Path | None) -> None:
    """Print experiments as rows of a Markdown table, from the files that the stages wrote.

    For a DSSformer, a table says what its state spaces can do and how far they have moved; dss_spectrum.png shows
    their attenuations, frequencies and reach. For BL-JUST training, a table and bl_just.png show both losses and their
    gradient norms. For learners with their own weights, a table and learners.png show the weight spread, staleness and
    the updates of each.
    """
    rows, tables = [], []
    experiments = [read_experiment(exp_dir) for exp_dir in exp_dirs]
    for exp_dir, experiment in zip(exp_dirs, experiments, strict=True):
        rows += experiment.rows()
        if state_spaces := experiment.state_spaces():
            tables.append(f"\nState spaces of {exp_dir.name}:\n\n{state_spaces}")
        if spectra := dss_spectra(experiment.bundle.model):
            with atomic_path(exp_dir / "dss_spectrum.png") as temporary:
                plot_dss_spectra(spectra, temporary)
        if bilevel := [line for line in experiment.metrics if KEY in line]:
            tables.append(f"\nLosses of {exp_dir.name}:\n\n{bilevel_table(bilevel)}")
            plot_bilevel(bilevel, exp_dir / "bl_just.png")
        if learners := [line for line in experiment.metrics if LEARNERS in line]:
            tables.append(f"\nLearners of {exp_dir.name}:\n\n{learners_table(learners)}")
            plot_learners(learners, exp_dir / "learners.png")
    click.echo("\n".join([table(rows), *tables]))
    if html is not None:
        write_page(html, experiments)
        log(f"wrote {html} ({html.stat().st_size / 1e6:.1f} MB)")
