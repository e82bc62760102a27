"""``asrkit report``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from asrkit.cli.common import PATH
from asrkit.errors import UserError
from asrkit.files import atomic_path
from asrkit.models.dss_spectrum import dss_spectra, plot_dss_spectra
from asrkit.models.transducer import num_parameters
from asrkit.training.checkpoint import load_model
from asrkit.training.progress import read_metrics

COLUMNS = (
    "experiment",
    "split",
    "search",
    "WER %",
    "95 % interval",
    "S / D / I",
    "CER %",
    "parameters",
    "epochs",
    "train min",
    "seed",
)


@click.command()
@click.argument("exp_dirs", nargs=-1, required=True, type=PATH)
def report(exp_dirs: tuple[Path, ...]) -> None:
    """Print experiments as rows of a Markdown table, from the files that the stages wrote.

    Beside a DSSformer its learned attenuations and frequencies are drawn, dss_spectrum.png.
    """
    click.echo("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for exp_dir in exp_dirs:
        scores = sorted(exp_dir.glob("decode_*_*/score.json"))
        if not scores:
            raise UserError(f"{exp_dir} holds no decode_SPLIT_SEARCH/score.json; decode and score it first")
        bundle = load_model(exp_dir / "averaged.safetensors")
        if spectra := dss_spectra(bundle.model):
            with atomic_path(exp_dir / "dss_spectrum.png") as temporary:
                plot_dss_spectra(spectra, temporary)
        metrics = read_metrics(exp_dir / "metrics.jsonl")
        minutes = sum(line["seconds"] for line in metrics) / 60
        for path in scores:
            split, search = path.parent.name.split("_")[1:3]
            values = json.loads(path.read_text(encoding="utf-8"))
            wer, (low, high) = values["wer"], values["wer"]["interval_95"]
            cells = (
                exp_dir.name, split, search, f"{wer['rate']:.2f}", f"{low:.2f} – {high:.2f}",
                f"{wer['substitutions']} / {wer['deletions']} / {wer['insertions']}", f"{values['cer']['rate']:.2f}",
                f"{num_parameters(bundle.model):,}", str(len(metrics)), f"{minutes:.1f}", str(bundle.config.train.seed),
            )  # fmt: skip
            click.echo("| " + " | ".join(cells) + " |")
