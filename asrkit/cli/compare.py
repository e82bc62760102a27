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
@click.option("--system", type=PATH, multiple=True, required=True, help="The same for the other system.")
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
    difference = paired_bootstrap(*counts)
    unit = "CER" if characters else "WER"
    click.echo(
        f"{unit} {difference.baseline:.2f} % ({len(baseline)} trained) and {difference.system:.2f} % ({len(system)} "
        f"trained): {difference.points:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}] points, "
        f"p = {difference.p_value:.4f}"
    )
