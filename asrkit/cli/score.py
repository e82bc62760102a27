"""``asrkit score``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from asrkit.cli.common import PATH, already_done
from asrkit.files import write_json, write_text
from asrkit.records import INPUTS, Record, digest
from asrkit.scoring.nist import SUBSETS, read_trn
from asrkit.scoring.report import headline, score_trn, summary, text_report


@click.command()
@click.option("--ref", type=PATH, required=True, help="Reference trn.")
@click.option("--hyp", type=PATH, required=True, help="Hypothesis trn.")
@click.option("--out-dir", type=PATH, help="Where score.json and score.txt go; the hypothesis' folder by default.")
@click.option("--case-sensitive", is_flag=True, help="Count capital and small letters as different, as sclite -s does.")
@click.option("--force", is_flag=True, help="Score again where it is done.")
def score(ref: Path, hyp: Path, out_dir: Path | None, case_sensitive: bool, force: bool) -> None:
    """Score hypotheses: WER, CER, sentences, speakers, confusions, aligned errors, bootstrap interval."""
    out_dir = out_dir or hyp.parent
    outputs = [out_dir / "score.json", out_dir / "score.txt"]
    inputs = {"digest of ref": digest(ref), "digest of hyp": digest(hyp), "--case-sensitive": case_sensitive}
    subsets: dict[str, str] = {}
    if (path := ref.parent / SUBSETS).is_file():
        subsets = json.loads(path.read_text(encoding="utf-8"))
        inputs |= {"digest of subsets": digest(path)}
    record = Record(out_dir / f"score.{INPUTS}", inputs, {"--case-sensitive": True})  # as earlier versions counted
    if already_done(outputs, record, force):
        values = json.loads(outputs[0].read_text(encoding="utf-8"))
    else:
        scored = score_trn(read_trn(ref, case_sensitive), read_trn(hyp, case_sensitive))
        values = summary(scored, subsets)
        record.begin()
        write_text(outputs[1], text_report(scored, values))
        write_json(outputs[0], values)
        record.keep()
    click.echo(f"{out_dir}: {headline(values)}")
    for name, part in values.get("subsets", {}).items():
        click.echo(f"  {name}: {headline(part)}")
