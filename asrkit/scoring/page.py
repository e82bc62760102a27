"""Experiments as one HTML page that opens from disk: results, curves, comparisons, and every utterance with its errors.

The page shows the scorer's counts and computes none. It needs no server and no network; audio is played from its
original files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from asrkit.data.cut_files import read_cuts
from asrkit.data.splits import subset_of
from asrkit.files import write_text
from asrkit.scoring.alignment import GAP
from asrkit.scoring.experiment import COLUMNS, Experiment
from asrkit.scoring.nist import trn_key
from asrkit.scoring.report import score_folder
from asrkit.scoring.significance import matched_pairs, paired_bootstrap
from asrkit.scoring.wer import Score, ScoredUtterance

MOST_HYPOTHESES = 4
"""Hypotheses of an utterance's n-best list that are shown."""
MOST_CONFUSIONS = 100
PLAYABLE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".webm", ".mp4")
"""Suffixes of audio that browsers play."""


def write_page(path: Path, experiments: Sequence[Experiment]) -> None:
    """Writes the page.

    Args:
        path: the HTML file; audio is named relative to it.
        experiments: decoded and scored.

    Raises:
        UserError: the results of decoding cannot be read.
    """
    sets = [scored_set for experiment in experiments for scored_set in _sets(experiment, path)]
    data = {
        "columns": COLUMNS,
        "rows": [row for experiment in experiments for row in experiment.rows()],
        "experiments": [_curves(experiment) for experiment in experiments],
        "sets": [values for values, _ in sets],
        "comparisons": _comparisons(sets),
    }
    template = resources.files("asrkit.scoring").joinpath("page.html").read_text(encoding="utf-8")
    # In a script element, "</" would end it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    write_text(path, template.replace("/*DATA*/null", text))


def _curves(experiment: Experiment) -> dict[str, Any]:
    lines = experiment.metrics
    measures = sorted({name for line in lines for name in line if name.startswith("dev_")})
    names = sorted({name for line in lines for name in line.get("loss", {})})
    curves = {name: [line.get("loss", {}).get(name) for line in lines] for name in names}
    curves |= {name: [line.get(name) for line in lines] for name in measures}
    return {"name": experiment.path.name, "epochs": [line["epoch"] for line in lines], "curves": curves}


def _sets(experiment: Experiment, page: Path) -> list[tuple[dict[str, Any], Score]]:
    """The decodings of an experiment, as the page shows them, and their scores."""
    decodings = []
    for (split, search), folder in sorted(experiment.folders.items()):
        score = score_folder(folder)
        lists = read_cuts(folder / "hypotheses.jsonl.gz", stage="asrkit decode")
        cuts = {trn_key(cut.supervisions[0].speaker or cut.id, cut.id): cut for cut in lists}
        files: dict[str, int] = {}
        utterances = [_utterance(u, cuts[u.id], page, files) for u in score.utterances]
        values = experiment.scores[split, search]
        decodings.append(
            (
                {
                    "experiment": experiment.path.name,
                    "split": split,
                    "search": search,
                    "wer": values["wer"],
                    "cer": values["cer"],
                    "subsets": {name: part["wer"] for name, part in values.get("subsets", {}).items()},
                    "confusions": [[*pair, count] for pair, count in score.confusions(MOST_CONFUSIONS)],
                    "files": list(files),
                    "utterances": utterances,
                },
                score,
            )
        )
    return decodings


def _utterance(u: ScoredUtterance, cut: Cut, page: Path, files: dict[str, int]) -> dict[str, Any]:
    """Errors, aligned words (a correct one as a string), audio, times of the hypothesis' words, other hypotheses."""
    pairs: list[Any] = [
        ref if ref == hyp else [None if ref is GAP else ref, None if hyp is GAP else hyp] for ref, hyp in u.pairs
    ]
    values: dict[str, Any] = {
        "id": cut.id,
        "speaker": u.speaker,
        "seconds": round(cut.duration, 2),
        "words": u.words.reference,
        "errors": u.words.total,
        "pairs": pairs,
    }
    if subset := subset_of(cut):
        values["subset"] = subset
    source = Path(cut.recording.sources[0].source)
    if source.suffix.lower() in PLAYABLE:
        name = os.path.relpath(source, page.resolve().parent)
        values["audio"] = [files.setdefault(name, len(files)), round(cut.start, 3)]
    if cut.hypotheses:
        values["times"] = [[w["time"], w["end"]] for w in cut.hypotheses[0]["words"]]
        if len(cut.hypotheses) > 1:
            values["nbest"] = [[h["text"], h["score"], h["parts"]] for h in cut.hypotheses[:MOST_HYPOTHESES]]
    return values


def _comparisons(sets: Sequence[tuple[dict[str, Any], Score]]) -> list[dict[str, Any]]:
    """Each pair of systems on the same utterances: difference with its interval, and the matched pairs test."""
    comparisons = []
    for (a, score_a), (b, score_b) in combinations(sets, 2):
        same = [u.id for u in score_a.utterances] == [u.id for u in score_b.utterances]
        if a["split"] != b["split"] or not same:
            continue
        errors = [[u.words for u in score.utterances] for score in (score_a, score_b)]
        difference = paired_bootstrap([errors[0]], [errors[1]], replications=2000)
        test = matched_pairs(*([u.pairs for u in score.utterances] for score in (score_a, score_b)))
        comparisons.append(
            {
                "split": a["split"],
                "a": f"{a['experiment']}, {a['search']}",
                "b": f"{b['experiment']}, {b['search']}",
                "rates": [difference.baseline, difference.system],
                "points": difference.points,
                "interval": [difference.low, difference.high],
                "p_bootstrap": difference.p_value,
                "p_matched_pairs": test,
            }
        )
    return comparisons
