"""``asrkit decode | score``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import torch

from asrkit.cli.common import PATH, config_options, done_before
from asrkit.config import load_config
from asrkit.data.feature_store import features_path, load_statistics, read_cuts
from asrkit.data.loaders import transcript
from asrkit.decoding.decode import decode_cuts
from asrkit.decoding.hypothesis import attach_hypotheses
from asrkit.decoding.search import make_search
from asrkit.files import atomic_path, write_json, write_text
from asrkit.scoring.nist import read_trn, write_trn
from asrkit.scoring.report import headline, score_trn, summary, text_report
from asrkit.training.build import build_pipeline
from asrkit.training.checkpoint import load_model
from asrkit.training.progress import log, progress_bar


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint or an exported model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--split", default="test", show_default=True, help="train, dev or test.")
@click.option("--out-dir", type=PATH, required=True, help="Where hypotheses go.")
@click.option("--force", is_flag=True, help="Decode again where it is done.")
@config_options
def decode(
    model_path: Path,
    data_dir: Path,
    split: str,
    out_dir: Path,
    force: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Decode a split; only the decode.* settings of the configuration are used, all else is in the model."""
    outputs = [out_dir / name for name in ("hypotheses.jsonl.gz", "hyp.trn", "ref.trn")]
    if done_before(outputs, force):
        return
    settings = load_config(config_path, overrides).decode
    bundle = load_model(model_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    statistics = load_statistics(data_dir) | bundle.statistics
    cuts = list(read_cuts(features_path(data_dir, split)))
    search = make_search(
        settings.method, beam=settings.beam, nbest=settings.nbest, max_symbols=settings.max_symbols,
        max_labels_per_frame=settings.max_labels_per_frame,
    )  # fmt: skip
    started, decoded = time.monotonic(), []
    with progress_bar(f"decode {split}", len(cuts)) as bar:
        for cut, nbest in decode_cuts(
            bundle.model.to(device), build_pipeline(bundle.config, statistics), cuts, search,
            batch_seconds=settings.batch_seconds, device=device,
        ):  # fmt: skip
            decoded.append((cut, nbest))
            bar.advance()
    seconds = time.monotonic() - started
    with atomic_path(outputs[0]) as temporary:
        attach_hypotheses([c for c, _ in decoded], [n for _, n in decoded], bundle.tokenizer).to_file(temporary)
    speaker = {cut.id: cut.supervisions[0].speaker or cut.id for cut in cuts}
    write_trn(
        outputs[1], [(bundle.tokenizer.decode(n[0].tokens) if n else "", speaker[c.id], c.id) for c, n in decoded]
    )
    write_trn(outputs[2], [(transcript(cut), speaker[cut.id], cut.id) for cut in cuts])
    audio_s = sum(cut.duration for cut in cuts)
    write_json(out_dir / "decode.json", {"model": str(model_path), "method": settings.method, "beam": settings.beam,
                                         "seconds": round(seconds, 2), "audio_s": round(audio_s, 2)})  # fmt: skip
    log(f"decoded {split}: {len(cuts)} utterances, {settings.method}, real-time factor {seconds / audio_s:.4f}")


@click.command()
@click.option("--ref", type=PATH, required=True, help="Reference trn.")
@click.option("--hyp", type=PATH, required=True, help="Hypothesis trn.")
@click.option("--out-dir", type=PATH, help="Where score.json and score.txt go; the hypothesis' folder by default.")
@click.option("--force", is_flag=True, help="Score again where it is done.")
def score(ref: Path, hyp: Path, out_dir: Path | None, force: bool) -> None:
    """Score hypotheses: WER, CER, sentences, speakers, confusions, aligned errors, bootstrap interval."""
    out_dir = out_dir or hyp.parent
    outputs = [out_dir / "score.json", out_dir / "score.txt"]
    if done_before(outputs, force):
        values = json.loads(outputs[0].read_text(encoding="utf-8"))
    else:
        scored = score_trn(read_trn(ref), read_trn(hyp))
        values = summary(scored)
        write_text(outputs[1], text_report(scored, values))
        write_json(outputs[0], values)
    click.echo(f"{out_dir}: {headline(values)}")
