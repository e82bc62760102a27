"""``asrkit utterance-scores``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from asrkit.cli.common import PATH, already_done
from asrkit.console import log
from asrkit.data.folder import DataFolder
from asrkit.data.upstream import require_current
from asrkit.files import companion, write_text
from asrkit.records import INPUTS, Record, digest
from asrkit.training.importance import utterance_scores as scores_of


@click.command()
@click.option("--model", "models", type=PATH, required=True, multiple=True, help="A checkpoint; several are averaged.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data, whose training set is scored.")
@click.option("--output", type=PATH, required=True, help="The JSON lines to write.")
@click.option("--force", is_flag=True, help="Score again even if it is done.")
def utterance_scores(models: tuple[Path, ...], data_dir: Path, output: Path, force: bool) -> None:
    """Score training utterances by EL2N and GraNd, for train.sampling.type=highest_scores."""
    folder = DataFolder(data_dir)
    require_current(folder)
    inputs = {
        "stage": "utterance-scores",
        "digests of models": [digest(path) for path in models],
        "digest of cuts": digest(folder.features("train")),
    }
    record = Record(companion(output, f".{INPUTS}"), inputs)
    if already_done([output], record, force):
        return
    scores = scores_of(models, folder)
    record.begin()
    write_text(output, "".join(json.dumps({"id": id} | values) + "\n" for id, values in scores.items()))
    record.keep()
    log(f"scored {len(scores)} utterances into {output}")
