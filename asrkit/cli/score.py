"""``asrkit score``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import PATH, already_done
from asrkit.errors import UserError
from asrkit.files import write_json, write_text
from asrkit.records import INPUTS, Record, digest
from asrkit.scoring.nist import SUBSETS, read_trn
from asrkit.scoring.report import headline, read_score_file, read_values, score_trn, summary, text_report

LISTS = "hypotheses.jsonl.gz"
"""File name of ``asrkit decode``'s n-best lists."""


@click.command()
@click.option("--ref", type=PATH, required=True, help="Reference trn.")
@click.option("--hyp", type=PATH, required=True, help="Hypothesis trn.")
@click.option("--out-dir", type=PATH, help="Where score.json and score.txt go; the hypothesis' folder by default.")
@click.option("--case-sensitive", is_flag=True, help="Count capital and small letters as different, as sclite -s does.")
@click.option("--stm", "stms", type=PATH, multiple=True, help="NIST's reference, for official scores; needs --glm.")
@click.option("--glm", type=PATH, help="NIST's rules of equal spellings, for official scores.")
@click.option("--force", is_flag=True, help="Score again even if it is done.")
def score(
    ref: Path,
    hyp: Path,
    out_dir: Path | None,
    case_sensitive: bool,
    stms: tuple[Path, ...],
    glm: Path | None,
    force: bool,
) -> None:
    """Score hypotheses: WER, CER, sentences, speakers, confusions, aligned errors, bootstrap interval.

    With --stm and --glm, the lists that asrkit decode wrote next to --hyp are scored by NIST's rules too.
    """
    if bool(stms) != (glm is not None):
        raise UserError("--stm and --glm must be given together")
    out_dir = out_dir or hyp.parent
    outputs = [out_dir / "score.json", out_dir / "score.txt"]
    inputs: dict[str, object] = {
        "digest of ref": digest(ref),
        "digest of hyp": digest(hyp),
        "--case-sensitive": case_sensitive,
    }
    subsets: dict[str, str] = {}
    if (path := ref.parent / SUBSETS).is_file():
        subsets = read_values(path, "asrkit decode --force")
        inputs |= {"digest of subsets": digest(path)}
    if glm is not None:
        inputs |= {"digests of stm": [digest(path) for path in stms], "digest of glm": digest(glm)}
        inputs |= {"digest of lists": digest(hyp.parent / LISTS)}
    record = Record(out_dir / f"score.{INPUTS}", inputs, {"--case-sensitive": True})  # as earlier versions counted
    # A record lacks what an earlier scoring did not read, such as NIST's rules.
    new = outputs[0].is_file() and not all(record.has(name) for name in inputs if name.startswith("digest"))
    if already_done(outputs, record, force or new):
        values = read_score_file(outputs[0])
    else:
        scored = score_trn(read_trn(ref, case_sensitive), read_trn(hyp, case_sensitive))
        values = summary(scored, subsets)
        if glm is not None:
            from asrkit.data.cut_files import read_cuts  # with torch, which scoring alone does without
            from asrkit.scoring.hub5 import by_subset, official_errors

            cuts = list(read_cuts(hyp.parent / LISTS, stage="asrkit decode"))
            subset_errors = by_subset(official_errors(stms, glm, cuts, out_dir / "nist"), cuts)
            values["nist"] = {name: errors.to_dict() for name, errors in subset_errors.items()}
        record.begin()
        write_text(outputs[1], text_report(scored, values))
        write_json(outputs[0], values)
        record.keep()
    click.echo(f"{out_dir}: {headline(values)}")
    for name, part in values.get("subsets", {}).items():
        click.echo(f"  {name}: {headline(part)}")
    if official := values.get("nist"):
        rates = [f"{name or 'all'} {part['rate']:.1f} %" for name, part in official.items()]
        click.echo(f"  NIST's rates: {', '.join(rates)}")
