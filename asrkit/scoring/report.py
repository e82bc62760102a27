"""Error rates as JSON, as text tables, and as a row of a recipe's results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrkit.errors import UserError
from asrkit.records import INPUTS
from asrkit.scoring.nist import choose_alternatives, read_trn
from asrkit.scoring.significance import bootstrap_interval
from asrkit.scoring.wer import Errors, Score, ScoredUtterance, score_utterance

MOST_CONFUSIONS = 20


def score_trn(reference: dict[str, tuple[str, str]], hypothesis: dict[str, tuple[str, str]]) -> Score:
    """Scores texts from :func:`asrkit.scoring.nist.read_trn`.

    Raises:
        UserError: the two hold different utterances, or the reference has no words.
    """
    missing = sorted(reference.keys() - hypothesis.keys())
    extra = sorted(hypothesis.keys() - reference.keys())
    if missing or extra:
        side, ids = ("hypothesis", missing) if missing else ("reference", extra)
        raise UserError(f"{len(ids)} utterances have no {side}, such as {ids[0]}; score files of the same set")
    ordered = sorted(reference.items(), key=lambda item: (_without_speaker(item[0]), item[0]))
    utterances = []
    for id, (speaker, ref) in ordered:
        hyp = hypothesis[id][1]
        utterances.append(score_utterance(id, speaker, " ".join(choose_alternatives(ref, hyp.split())), hyp))
    score = Score(utterances)
    if not score.words.reference:
        raise UserError(f"the reference of {len(utterances)} utterances holds no word, so there is no error rate")
    return score


def score_folder(folder: Path) -> Score:
    """Scores the ``ref.trn`` and ``hyp.trn`` of a folder, with case if they were scored so before.

    See :func:`score_trn`.
    """
    path = folder / f"score.{INPUTS}"
    with_case = path.is_file() and read_values(path, "asrkit score --force").get("--case-sensitive", True)
    return score_trn(read_trn(folder / "ref.trn", with_case), read_trn(folder / "hyp.trn", with_case))


def read_score_file(path: Path) -> dict[str, Any]:
    """The values of a ``score.json``.

    Raises:
        UserError: the file cannot be read, or holds no error rates.
    """
    remedy = "asrkit score --force"
    values = read_values(path, remedy)
    try:
        for part in (values, *values.get("subsets", {}).values()):
            figures = [part["wer"][name] for name in ("rate", "substitutions", "deletions", "insertions")]
            low, high = part["wer"]["interval_95"]
            require_numbers(*figures, low, high, part["cer"]["rate"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no error rates; run {remedy}") from error
    return values


def require_numbers(*values: object) -> None:
    """Raises TypeError unless all are numbers."""
    if not all(isinstance(value, int | float) for value in values):
        raise TypeError("not a number")


def read_values(path: Path, remedy: str) -> dict[str, Any]:
    """The values by name in a JSON file.

    Raises:
        UserError: the file cannot be read, or holds something else; says to run ``remedy``.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); run {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no values by name; run {remedy}")
    return values


def _without_speaker(key: str) -> str:
    """The part of a key after the speaker; corpora are sorted by it."""
    return re.split("[-_]", key, maxsplit=1)[-1]


def parts(score: Score, subsets: Mapping[str, str]) -> dict[str, Score]:
    """A scored set by subset, in alphabetical order.

    Args:
        score: the complete set.
        subsets: by utterance.

    Raises:
        UserError: an utterance has none.
    """
    missing = [u.id for u in score.utterances if u.id not in subsets]
    if missing:
        raise UserError(f"{len(missing)} utterances are in no subset, such as {missing[0]}; decode again")
    names = sorted({subsets[u.id] for u in score.utterances})
    return {name: Score([u for u in score.utterances if subsets[u.id] == name]) for name in names}


def summary(score: Score, subsets: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A scored set as plain values, and those of each subset."""
    values = _summary(score)
    if subsets:
        values["subsets"] = {name: _summary(part) for name, part in parts(score, subsets).items()}
    return values


def _summary(score: Score) -> dict[str, Any]:
    low, high = bootstrap_interval([u.words for u in score.utterances])
    return {
        "wer": score.words.to_dict() | {"interval_95": [round(low, 4), round(high, 4)]},
        "cer": score.characters.to_dict(),
        "sentence_error_rate": round(score.sentence_error_rate, 4),
        "utterances": len(score.utterances),
        "speakers": {name: errors.to_dict() for name, errors in score.by_speaker().items()},
        "confusions": [
            {"reference": ref, "hypothesis": hyp, "count": count}
            for (ref, hyp), count in score.confusions(MOST_CONFUSIONS)
        ],
    }


def headline(values: dict[str, Any]) -> str:
    """One line: WER with its interval and split, CER, sentences."""
    wer, cer = values["wer"], values["cer"]
    low, high = wer["interval_95"]
    return (
        f"WER {wer['rate']:.2f} % [{low:.2f}, {high:.2f}] ({wer['errors']} / {wer['reference']}: "
        f"{wer['substitutions']} sub, {wer['deletions']} del, {wer['insertions']} ins), CER {cer['rate']:.2f} %, "
        f"sentences wrong {values['sentence_error_rate']:.1f} %"
    )


def text_report(score: Score, values: dict[str, Any]) -> str:
    """The complete report: headline, speakers, confusions, aligned errors."""
    subset_lines = [f"{name}: {headline(part)}" for name, part in values.get("subsets", {}).items()]
    blocks = [
        headline(values),
        *subset_lines,
        *(f"NIST's rate, {name or 'all'}: {part['rate']:.2f} %" for name, part in values.get("nist", {}).items()),
        "The interval is a 95 % bootstrap over utterances; S, D and I are split as NIST sclite splits them.\n",
        _speaker_table(score),
        _confusion_table(score),
        "Utterances with errors (^ marks the wrong words)",
        *[_aligned(u) for u in score.utterances if u.words.total],
    ]
    return "\n".join(blocks) + "\n"


def _speaker_table(score: Score) -> str:
    rows = [f"{'speaker':<16}{'words':>7}{'sub':>6}{'del':>6}{'ins':>6}{'WER %':>9}"]
    for name, e in [*score.by_speaker().items(), ("all", score.words)]:
        rows.append(_row(name, e))
    return "\n".join(rows) + "\n"


def _row(name: str, e: Errors) -> str:
    return f"{name:<16}{e.reference:>7}{e.substitutions:>6}{e.deletions:>6}{e.insertions:>6}{e.rate:>9.2f}"


def _confusion_table(score: Score) -> str:
    rows = ["Most frequent errors (count: reference -> hypothesis, *** is a gap)"]
    rows += [f"{count:>5}: {ref} -> {hyp}" for (ref, hyp), count in score.confusions(MOST_CONFUSIONS)]
    return "\n".join(rows) + "\n"


def _aligned(u: ScoredUtterance) -> str:
    widths = [max(len(ref), len(hyp)) for ref, hyp in u.pairs]
    ref = " ".join(pair[0].ljust(w) for pair, w in zip(u.pairs, widths, strict=True))
    hyp = " ".join(pair[1].ljust(w) for pair, w in zip(u.pairs, widths, strict=True))
    marks = " ".join((" " if a == b else "^").ljust(w) for (a, b), w in zip(u.pairs, widths, strict=True))
    return f"\n{u.id} ({u.speaker})\n  ref: {ref.rstrip()}\n  hyp: {hyp.rstrip()}\n       {marks.rstrip()}"
