"""Running a study's experiments once, and writing their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrkit.console import log
from asrkit.files import write_json, write_text
from asrkit.records import INPUTS, Record, is_done
from asrkit.studies.claims import Claim, results_page

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Results = dict[str, Any]
RESULTS = "results.json"


def run_once(out_dir: Path, settings: DataclassInstance, data: str, run: Callable[[], Results]) -> Results:
    """What ``run`` returns, or an earlier run's results in ``out_dir``; kept in results.json.

    Args:
        out_dir: where results.json goes.
        settings: of the run.
        data: what it runs on, empty if it generates its own.
        run: writes all other files.

    Raises:
        UserError: ``out_dir`` holds results of other settings or data.
    """
    path = out_dir / RESULTS
    inputs = {"data": data, "settings": json.loads(json.dumps(asdict(settings), default=lambda f: f.__name__))}
    record = Record(out_dir / INPUTS, inputs, complete=True)
    if path.is_file() and not record.path.is_file():  # from version 0.1, which kept no record
        before = json.loads(path.read_text(encoding="utf-8"))
        write_json(record.path, {name: before.get(name) for name in inputs})
    if is_done([path], record, force=False, remedy="give another --out-dir, or remove that file to run it again"):
        results: Results = json.loads(path.read_text(encoding="utf-8"))
        return results
    record.begin()
    results = inputs | run()
    write_json(path, results)
    record.keep()
    return results


def run_experiments(
    out_dir: Path,
    study: str,
    title: str,
    paper: str,
    experiments: Sequence[Callable[[], None]],
    results: Results,
    claims: Callable[[Results], Sequence[Claim]],
    seeds: int,
) -> Results:
    """Runs the experiments, each of which adds to ``results``, and writes RESULTS.md.

    Args:
        out_dir: where the files go.
        study: its recipe's name.
        title: of RESULTS.md.
        paper: its source.
        experiments: in this order.
        results: filled by them.
        claims: the paper's claims against the results.
        seeds: number of seeds averaged over.
    """
    for experiment in experiments:
        log(f"{study}: {experiment.__name__.replace('_', ' ')}")
        experiment()
    source = f"{paper}. Written by `egs/{study}/run.sh`; means and standard deviations over {seeds} seeds."
    write_text(out_dir / "RESULTS.md", results_page(title, source, claims(results)))
    return results
