"""``asrkit pseudo-label``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click
from lhotse.cut import Cut

from asrkit.bundle.model_file import load_recognizer
from asrkit.cli.common import PATH, already_done, config_options
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.data.cut_files import Roots, load_roots, write_cuts
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import encode_hypothesis
from asrkit.data.upstream import UNLABELLED, cut_digests, require_current
from asrkit.decoding.decode import decode_split
from asrkit.decoding.nbest import words
from asrkit.decoding.search import require_weights
from asrkit.errors import UserError
from asrkit.records import INPUTS, Record, digest


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint or an exported model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared speech, with features.")
@click.option("--out-dir", type=PATH, required=True, help="The prepared data to write.")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Exclude utterances whose words have a lower mean confidence.",
)
@click.option("--force", is_flag=True, help="Decode again even if it is done.")
@config_options
def pseudo_label(
    model_path: Path,
    data_dir: Path,
    out_dir: Path,
    min_confidence: float,
    force: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Write prepared data with a model's hypotheses as transcripts, for train.mix.NAME.data_dir.

    The training set of DATA_DIR is decoded; run asrkit features on OUT_DIR next.
    """
    settings = load_config(config_path, overrides, reads=("decode",)).decode
    source, folder = DataFolder(data_dir), DataFolder(out_dir)
    require_current(source)
    inputs = {
        "stage": "pseudo-label",
        "digest of model": digest(model_path),
        "digests of corpora": [cut_digests(source)],
        "decode": asdict(settings),
        "--min-confidence": min_confidence,
        UNLABELLED: True,  # no dev or test
    }
    record = Record(out_dir / INPUTS, inputs)
    if already_done([folder.cuts("train")], record, force):
        return
    require_weights(settings.fusion)
    bundle = load_recognizer(model_path)
    texts: dict[str, str] = {}
    decoded = decode_split(bundle, source, "train", settings).lists
    for cut, nbest in decoded:
        spoken = words(nbest, bundle.tokenizer)[0] if nbest else []
        text = " ".join(word.word for word in spoken)
        is_confident = sum(word.confidence for word in spoken) >= min_confidence * len(spoken)
        if spoken and is_confident and encode_hypothesis(bundle.tokenizer, text):
            texts[cut.id] = text
    labelled = [_with_text(cut, texts[cut.id]) for cut in source.read_cuts("train") if cut.id in texts]
    if not labelled:
        raise UserError(f"no utterance of {data_dir} has words with --min-confidence {min_confidence:g}; lower it")
    record.begin()
    roots = Roots(folder.path, [*load_roots(source.path).corpora, source.path.resolve()])
    roots.save()
    write_cuts(folder.cuts("train"), labelled, roots)
    record.keep()
    log(f"labelled {len(labelled)} of {len(decoded)} utterances; next: asrkit features --data-dir {out_dir}")


def _with_text(cut: Cut, text: str) -> Cut:
    cut.supervisions = [replace(cut.supervisions[0], text=text)]
    return cut
