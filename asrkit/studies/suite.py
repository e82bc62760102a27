"""Running a study's experiments once, and writing what they found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asrkit.files import write_json, write_text
from asrkit.studies.claims import Claim, results_page
from asrkit.training.progress import log

Results = dict[str, Any]
RESULTS = "results.json"


def run_once(out_dir: Path, run: Callable[[], Results]) -> Results:
    """What ``run`` returns, or what an earlier run left in ``out_dir``."""
    done = out_dir / RESULTS
    if not done.is_file():
        return run()
    log(f"done before: {done}")
    found: Results = json.loads(done.read_text(encoding="utf-8"))
    return found


def conduct(
    out_dir: Path,
    study: str,
    title: str,
    paper: str,
    experiments: Sequence[Callable[[], None]],
    results: Results,
    claims: Callable[[Results], Sequence[Claim]],
    seeds: int,
) -> Results:
    """Runs the experiments, each of which adds to ``results``, and writes results.json and RESULTS.md.

    Args:
        out_dir: where the files go.
        study: its recipe's name.
        title: of RESULTS.md.
        paper: its source.
        experiments: in this order.
        results: filled by them.
        claims: the paper's claims against the results.
        seeds: over how many the means are.
    """
    for experiment in experiments:
        log(f"{study}: {experiment.__name__.replace('_', ' ')}")
        experiment()
    write_json(out_dir / RESULTS, results)
    source = f"{paper}. Written by `egs/{study}/run.sh`; means and standard deviations over {seeds} seeds."
    write_text(out_dir / "RESULTS.md", results_page(title, source, claims(results)))
    return results
