"""``asrkit decode | nbest | rescore``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from lhotse.cut import Cut

from asrkit.cli.common import MADE_OF, PATH, Made, config_options, digest, done_before, make_folder
from asrkit.cli.searches import build_search, require_weights
from asrkit.cli.tune_fusion import tune_fusion
from asrkit.config import DecodeConfig, FusionConfig
from asrkit.config_files import load_config
from asrkit.data.feature_store import features_path, load_statistics, read_cuts
from asrkit.data.loaders import transcript
from asrkit.decoding.decode import decode_cuts
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.nbest import attach_hypotheses, best_text, hypothesis_from_dict
from asrkit.decoding.nbest import rescore as rescore_nbest
from asrkit.errors import UserError
from asrkit.files import atomic_path, write_json
from asrkit.scoring.nist import write_trn
from asrkit.scoring.wer import oracle, word_error_rate
from asrkit.text.tokenizer import Tokenizer
from asrkit.training.build import build_pipeline
from asrkit.training.checkpoint import ModelBundle, load_model
from asrkit.training.language_model import load_language_model
from asrkit.training.parallel import choose_device
from asrkit.training.progress import log, progress_bar

DECODED = ("hypotheses.jsonl.gz", "hyp.trn", "ref.trn")
"""What decoding leaves in its folder."""
SETTINGS = "decode.json"
"""And how it was done."""


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint or an exported model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--split", default="test", show_default=True, help="train, dev or test.")
@click.option("--out-dir", type=PATH, required=True, help="Where hypotheses go.")
@click.option(
    "--tune-fusion",
    "tune",
    is_flag=True,
    help="Find the weights of decode.fusion's language models on this split (dev), then decode with them.",
)
@click.option("--fusion-of", type=PATH, help="Take decode.fusion from what an earlier decoding left in this folder.")
@click.option("--force", is_flag=True, help="Decode again where it is done.")
@config_options
def decode(
    model_path: Path,
    data_dir: Path,
    split: str,
    out_dir: Path,
    tune: bool,
    fusion_of: Path | None,
    force: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Decode a split; only the decode.* settings of the configuration are used, all else is in the model."""
    settings = load_config(config_path, overrides).decode
    if fusion_of:
        settings = replace(settings, fusion=read_fusion(fusion_of, settings.fusion))
    made_of = _decoding(model_path, features_path(data_dir, split), settings) | {"--tune-fusion": tune}
    made = Made(out_dir / MADE_OF, made_of)
    if done_before([out_dir / name for name in (*DECODED, SETTINGS)], force, made=made):
        return
    if not tune:
        require_weights(settings.fusion)
    bundle = load_model(model_path)
    if tune and settings.method != "beam":
        raise UserError("--tune-fusion needs decode.method=beam, whose scores are those that it weighs")
    make_folder(out_dir)
    if tune:
        wide = replace(settings, nbest=settings.beam)

        def lists(fusion: FusionConfig) -> list[tuple[Cut, list[Hypothesis]]]:
            return decode_split(bundle, data_dir, split, replace(wide, fusion=fusion))[0]

        settings = replace(settings, fusion=tune_fusion(bundle, settings.fusion, lists, out_dir))
    decoded, seconds = decode_split(bundle, data_dir, split, settings)
    write_decoded(out_dir, decoded, bundle.tokenizer)
    audio_s = sum(cut.duration for cut, _ in decoded)
    write_json(out_dir / SETTINGS, {"model": str(model_path), "settings": asdict(settings),
                                         "seconds": round(seconds, 2), "audio_s": round(audio_s, 2)})  # fmt: skip
    made.keep()
    log(f"decoded {split}: {len(decoded)} utterances, {settings.method}, real-time factor {seconds / audio_s:.4f}")


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint or an exported model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--split", default="train", show_default=True, help="train, dev or test.")
@click.option("--output", type=PATH, required=True, help="The CutSet to write, such as nbest.jsonl.gz.")
@click.option("--force", is_flag=True, help="Decode again where it is done.")
@config_options
def nbest(
    model_path: Path,
    data_dir: Path,
    split: str,
    output: Path,
    force: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Keep decode.nbest hypotheses of each utterance, for label smoothing; print their oracle WER."""
    settings = load_config(config_path, overrides).decode
    made_of = _decoding(model_path, features_path(data_dir, split), settings)
    made = Made(output.with_name(f"{output.name}.{MADE_OF}"), made_of)
    if done_before([output], force, made=made):
        return
    if settings.method == "greedy":
        raise UserError("greedy search has one hypothesis; set decode.method=beam")
    if settings.beam < settings.nbest:
        raise UserError(f"decode.nbest={settings.nbest} needs a decode.beam of at least as many")
    if ".jsonl" not in output.suffixes:
        raise UserError(f"--output {output} must be a CutSet's name, such as nbest.jsonl.gz")
    require_weights(settings.fusion)
    bundle = load_model(model_path)
    make_folder(output.parent)
    decoded, _ = decode_split(bundle, data_dir, split, settings)
    texts = [(transcript(cut), [bundle.tokenizer.decode(h.tokens) for h in found]) for cut, found in decoded]
    write_lists(output, decoded, bundle.tokenizer)
    made.keep()
    first = word_error_rate((reference, found[0] if found else "") for reference, found in texts)
    best = word_error_rate((reference, oracle(reference, found)) for reference, found in texts)
    number = sum(len(found) for _, found in texts) / len(texts)
    log(f"n-best of {split}: {number:.1f} hypotheses an utterance, WER {first:.2f} %, oracle {best:.2f} %")


@click.command()
@click.option("--decoded", type=PATH, required=True, help="Where asrkit decode has put n-best lists.")
@click.option("--lm", "lm_path", type=PATH, required=True, help="A language model of asrkit train-lm.")
@click.option("--weight", type=float, required=True, help="Of the language model.")
@click.option("--length-weight", type=float, default=0.0, show_default=True, help="For each symbol.")
@click.option("--out-dir", type=PATH, required=True, help="Where the new lists go.")
@click.option("--force", is_flag=True, help="Rescore again where it is done.")
def rescore(decoded: Path, lm_path: Path, weight: float, length_weight: float, out_dir: Path, force: bool) -> None:
    """Reorder n-best lists with a language model."""
    made_of = {
        "stage": "rescore",
        "digest of lists": digest(decoded / DECODED[0]),
        "digest of lm": digest(lm_path),
        "--weight": weight,
        "--length-weight": length_weight,
    }
    made = Made(out_dir / MADE_OF, made_of)
    if done_before([out_dir / name for name in DECODED], force, made=made):
        return
    lm = load_language_model(lm_path)
    pairs = []
    for cut in read_cuts(decoded / DECODED[0]):
        lists = [hypothesis_from_dict(values) for values in cut.hypotheses]
        if any(
            max(h.tokens, default=0) >= lm.tokenizer.vocab_size or lm.tokenizer.decode(h.tokens) != values["text"]
            for h, values in zip(lists, cut.hypotheses, strict=True)
        ):
            raise UserError(f"{lm_path} has other symbols than the recognizer of {decoded}")
        try:
            pairs.append((cut, rescore_nbest(lists, lm.model, weight, length_weight)))
        except ValueError as error:
            raise UserError(f"{cut.id}: {error}; train the language model with a larger lm.max_symbols") from error
    write_decoded(out_dir, pairs, lm.tokenizer)
    made.keep()
    log(f"rescored {len(pairs)} utterances into {out_dir}")


def _decoding(model_path: Path, cuts: Path, settings: DecodeConfig) -> dict[str, Any]:
    """What hypotheses depend on."""
    read = {"model": model_path, "cuts": cuts}
    read |= {"target_lm": Path(settings.fusion.target_lm), "source_lm": Path(settings.fusion.source_lm)}
    made_of = {"stage": "decode", "decode": asdict(settings)}
    return made_of | {f"digest of {name}": digest(path) for name, path in read.items()}


def read_fusion(folder: Path, given: FusionConfig) -> FusionConfig:
    """The language models and weights of an earlier decoding.

    Raises:
        UserError: the folder holds none, or others than are ``given``.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{path} is missing; decode with --tune-fusion into that folder first")
    values = json.loads(path.read_text(encoding="utf-8"))["settings"]["fusion"]
    unset = asdict(FusionConfig())
    for name, value in asdict(given).items():
        if value not in (unset[name], values[name]):
            raise UserError(f"decode.fusion.{name} is {value}, but {path} has {values[name]}; leave one of both out")
    return FusionConfig(**values)


def decode_split(
    bundle: ModelBundle, data_dir: Path, split: str, settings: DecodeConfig
) -> tuple[list[tuple[Cut, list[Hypothesis]]], float]:
    """The n-best list of each utterance of a split, and the seconds it took."""
    device = choose_device("auto")
    pipeline = build_pipeline(bundle.config, load_statistics(data_dir) | bundle.statistics)
    cuts = list(read_cuts(features_path(data_dir, split)))
    search = build_search(settings, bundle.tokenizer, device)
    started, decoded = time.monotonic(), []
    with progress_bar(f"decode {split}", len(cuts)) as bar:
        for cut, found in decode_cuts(
            bundle.model.to(device), pipeline, cuts, search, batch_seconds=settings.batch_seconds, device=device
        ):
            decoded.append((cut, found))
            bar.advance()
    return decoded, time.monotonic() - started


def write_lists(path: Path, decoded: list[tuple[Cut, list[Hypothesis]]], tokenizer: Tokenizer) -> None:
    """Writes cuts with their n-best lists."""
    with atomic_path(path) as temporary:
        attach_hypotheses([c for c, _ in decoded], [n for _, n in decoded], tokenizer).to_file(temporary)


def write_decoded(out_dir: Path, decoded: list[tuple[Cut, list[Hypothesis]]], tokenizer: Tokenizer) -> None:
    """Writes the n-best lists, and the best hypotheses and the transcripts as trn files."""
    lists, hyp, ref = (out_dir / name for name in DECODED)
    write_lists(lists, decoded, tokenizer)
    speaker = {cut.id: cut.supervisions[0].speaker or cut.id for cut, _ in decoded}
    write_trn(hyp, [(best_text(nbest, tokenizer), speaker[cut.id], cut.id) for cut, nbest in decoded])
    write_trn(ref, [(transcript(cut), speaker[cut.id], cut.id) for cut, _ in decoded])
