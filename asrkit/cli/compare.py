"""``asrkit compare``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH
from asrkit.errors import UserError
from asrkit.scoring.report import score_folder
from asrkit.scoring.significance import paired_bootstrap


@click.command()
@click.option("--baseline", type=PATH, multiple=True, required=True, help="A decoding folder; one for each seed.")
@click.option("--system", type=PATH, multiple=True, required=True, help="The same of the other system.")
@click.option("--characters", is_flag=True, help="Compare character error rates.")
def compare(baseline: tuple[Path, ...], system: tuple[Path, ...], characters: bool) -> None:
    """Print the difference between two systems with its interval, by a paired bootstrap pooled over seeds."""
    scores = {folder: score_folder(folder) for folder in baseline + system}
    first, *others = scores
    for other in others:
        if [u.id for u in scores[other].utterances] != [u.id for u in scores[first].utterances]:
            raise UserError(f"{first} and {other} were not scored on the same utterances")
    counts = [
        [[u.characters if characters else u.words for u in scores[folder].utterances] for folder in folders]
        for folders in (baseline, system)
    ]
    found = paired_bootstrap(*counts)
    unit = "CER" if characters else "WER"
    click.echo(
        f"{unit} {found.baseline:.2f} % ({len(baseline)} trained) and {found.system:.2f} % ({len(system)} trained): "
        f"{found.points:+.2f} [{found.low:+.2f}, {found.high:+.2f}] points, p = {found.p_value:.4f}"
    )
