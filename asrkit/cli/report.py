"""``asrkit report``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH
from asrkit.files import atomic_path
from asrkit.models.dss_spectrum import dss_spectra, plot_dss_spectra
from asrkit.scoring.experiment import read_experiment, table


@click.command()
@click.argument("exp_dirs", nargs=-1, required=True, type=PATH)
def report(exp_dirs: tuple[Path, ...]) -> None:
    """Print experiments as rows of a Markdown table, from the files that the stages wrote.

    Of a DSSformer, a table says what its state spaces can do and how far they have moved; dss_spectrum.png draws
    their attenuations, frequencies and reach.
    """
    rows, spaces = [], []
    for exp_dir in exp_dirs:
        experiment = read_experiment(exp_dir)
        rows += experiment.rows()
        if found := experiment.state_spaces():
            spaces.append(f"\nState spaces of {exp_dir.name}:\n\n{found}")
        if spectra := dss_spectra(experiment.bundle.model):
            with atomic_path(exp_dir / "dss_spectrum.png") as temporary:
                plot_dss_spectra(spectra, temporary)
    click.echo("\n".join([table(rows), *spaces]))
