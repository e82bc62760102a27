"""``asrkit decode | nbest | rescore``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch
from lhotse.cut import Cut

from asrkit.bundle.model_file import load_language_model, load_recognizer
from asrkit.cli.common import PATH, already_done, config_options, launch_if_several, make_folder, processes_option
from asrkit.config import DecodeConfig, FusionConfig
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.data.cut_files import read_cuts
from asrkit.data.folder import DataFolder
from asrkit.data.splits import subset_of
from asrkit.data.transcripts import transcript
from asrkit.data.upstream import require_current
from asrkit.decoding.decode import Decoded, decode_split
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.nbest import attach_hypotheses, best_text, hypothesis_from_dict
from asrkit.decoding.nbest import rescore as rescore_nbest
from asrkit.decoding.search import BEAM, GREEDY, METHODS, require_weights
from asrkit.decoding.tune_fusion import Lists, tune_fusion
from asrkit.distributed.join import join_processes
from asrkit.distributed.learners import AllReduce
from asrkit.errors import UserError
from asrkit.files import atomic_path, companion, write_json
from asrkit.records import INPUTS, Record, digest
from asrkit.scoring.nist import SUBSETS, trn_key, write_trn
from asrkit.scoring.wer import oracle, word_error_rate, word_errors
from asrkit.text.tokenizer import Tokenizer

DECODED = ("hypotheses.jsonl.gz", "hyp.trn", "ref.trn")
"""Files that decoding writes."""
SETTINGS = "decode.json"
"""The settings and times of a decoding."""
HEARTBEAT_S = 30.0
"""Processes that decode together stop when one has been silent for this long."""


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint or an exported model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--split", default="test", show_default=True, help="train, dev or a test set.")
@click.option("--out-dir", type=PATH, required=True, help="Where hypotheses go.")
@click.option(
    "--tune-fusion",
    "tune",
    is_flag=True,
    help="Find the weights of decode.fusion's language models on this split (dev), then decode with them.",
)
@click.option("--fusion-of", type=PATH, help="Take decode.fusion from an earlier decoding in this folder.")
@click.option("--method", type=click.Choice(METHODS), help="The search; overrides decode.method.")
@click.option("--force", is_flag=True, help="Decode again even if it is done.")
@processes_option
@config_options
def decode(
    model_path: Path,
    data_dir: Path,
    split: str,
    out_dir: Path,
    method: str | None,
    tune: bool,
    fusion_of: Path | None,
    force: bool,
    processes: int,
    config_path: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Decode a split; only the configuration's decode.* settings are used, all else is in the model.

    Several machines: torchrun --nnodes N --nproc-per-node M ... -m asrkit decode ... on each.
    """
    final = {"decode.method": method} if method else None
    settings = load_config(config_path, overrides, reads=("decode",), final=final).decode
    if fusion_of:
        settings = replace(settings, fusion=read_fusion(fusion_of, settings.fusion))
    if tune and (processes > 1 or "RANK" in os.environ):
        raise UserError("--tune-fusion works in one process; find the weights first, then give --fusion-of")
    folder = DataFolder(data_dir)
    require_current(folder)
    launch_if_several(processes, sys.argv[1:], out_dir)
    with join_processes(torch.device("cpu"), HEARTBEAT_S) as group:  # they exchange hypotheses, not tensors
        _decode_together(group, model_path, folder, split, out_dir, settings, tune, force)


def _decode_together(
    group: AllReduce,
    model_path: Path,
    folder: DataFolder,
    split: str,
    out_dir: Path,
    settings: DecodeConfig,
    tune: bool,
    force: bool,
) -> None:
    """Decodes this process's share of a split; the first process writes the hypotheses of all."""
    inputs = _decoding_inputs(model_path, folder.features(split), settings) | {"--tune-fusion": tune}
    record = Record(out_dir / INPUTS, inputs)
    outputs = [out_dir / name for name in (*DECODED, SETTINGS)]
    if group.agree(group.is_main and already_done(outputs, record, force)):
        return
    if not tune:
        require_weights(settings.fusion)
    bundle = load_recognizer(model_path)
    if tune and settings.method != BEAM:
        raise UserError("--tune-fusion needs decode.method=beam, whose scores it weights")
    make_folder(out_dir)
    if tune:
        wide = replace(settings, nbest=settings.beam)

        def lists(fusion: FusionConfig) -> Lists:
            return decode_split(bundle, folder, split, replace(wide, fusion=fusion)).lists

        def errors(reference: str, text: str) -> int:
            return word_errors(reference, text).total

        settings = replace(settings, fusion=tune_fusion(bundle, settings.fusion, lists, errors, out_dir, click.echo))
    own = decode_split(bundle, folder, split, settings, group.place)
    parts = group.gather((own.lists, own.seconds))
    if not group.is_main:
        return
    pairs = [pair for own_pairs, _ in parts for pair in own_pairs]
    if group.world_size > 1:  # in the order of a single process
        order = {cut.id: n for n, cut in enumerate(folder.read_features(split))}
        pairs.sort(key=lambda pair: (-pair[0].duration, order[pair[0].id]))
    decoded = Decoded(pairs, max(seconds for _, seconds in parts))
    record.begin()
    write_decoded(out_dir, decoded.lists, bundle.tokenizer)
    times = {"seconds": round(decoded.seconds, 2), "audio_s": round(decoded.audio_s, 2)}
    read = {"model": str(model_path), "data_dir": str(folder.path), "split": split}
    write_json(out_dir / SETTINGS, read | {"settings": asdict(settings)} | times)
    record.keep()
    factor = decoded.seconds / decoded.audio_s
    log(f"decoded {split}: {len(decoded.lists)} utterances, {settings.method}, real-time factor {factor:.4f}")


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint or an exported model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data.")
@click.option("--split", default="train", show_default=True, help="train, dev or a test set.")
@click.option("--output", type=PATH, required=True, help="The CutSet to write, such as nbest.jsonl.gz.")
@click.option("--force", is_flag=True, help="Decode again even if it is done.")
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
    """Keep decode.nbest hypotheses per utterance, for label smoothing; print their oracle WER."""
    settings = load_config(config_path, overrides, reads=("decode",)).decode
    folder = DataFolder(data_dir)
    require_current(folder)
    inputs = _decoding_inputs(model_path, folder.features(split), settings)
    record = Record(companion(output, f".{INPUTS}"), inputs)
    if already_done([output], record, force):
        return
    if settings.method == GREEDY:
        raise UserError("greedy search has one hypothesis; set decode.method=beam")
    if settings.beam < settings.nbest:
        raise UserError(f"decode.nbest={settings.nbest} needs a decode.beam of at least as many")
    if ".jsonl" not in output.suffixes:
        raise UserError(f"--output {output} must be a CutSet's name, such as nbest.jsonl.gz")
    require_weights(settings.fusion)
    bundle = load_recognizer(model_path)
    make_folder(output.parent)
    decoded = decode_split(bundle, folder, split, settings).lists
    texts = [(transcript(cut), [bundle.tokenizer.decode(h.tokens) for h in hypotheses]) for cut, hypotheses in decoded]
    record.begin()
    write_lists(output, decoded, bundle.tokenizer)
    record.keep()
    first = word_error_rate((reference, nbest[0] if nbest else "") for reference, nbest in texts)
    best = word_error_rate((reference, oracle(reference, nbest)) for reference, nbest in texts)
    number = sum(len(nbest) for _, nbest in texts) / len(texts)
    log(f"n-best of {split}: {number:.1f} hypotheses per utterance, WER {first:.2f} %, oracle {best:.2f} %")


@click.command()
@click.option("--decoded", type=PATH, required=True, help="Where asrkit decode wrote n-best lists.")
@click.option("--lm", "lm_path", type=PATH, required=True, help="A language model from asrkit train-lm.")
@click.option("--weight", type=float, required=True, help="Weight of the language model.")
@click.option("--length-weight", type=float, default=0.0, show_default=True, help="Added per symbol.")
@click.option("--out-dir", type=PATH, required=True, help="Where the new lists go.")
@click.option("--force", is_flag=True, help="Rescore again even if it is done.")
def rescore(decoded: Path, lm_path: Path, weight: float, length_weight: float, out_dir: Path, force: bool) -> None:
    """Reorder n-best lists with a language model."""
    inputs = {
        "stage": "rescore",
        "digest of lists": digest(decoded / DECODED[0]),
        "digest of lm": digest(lm_path),
        "--weight": weight,
        "--length-weight": length_weight,
    }
    record = Record(out_dir / INPUTS, inputs)
    if already_done([out_dir / name for name in DECODED], record, force):
        return
    lm = load_language_model(lm_path)
    pairs = []
    for cut in read_cuts(decoded / DECODED[0], stage="asrkit decode"):
        hypotheses = [hypothesis_from_dict(values) for values in cut.hypotheses]
        if any(
            max(h.tokens, default=0) >= lm.tokenizer.vocab_size or lm.tokenizer.decode(h.tokens) != values["text"]
            for h, values in zip(hypotheses, cut.hypotheses, strict=True)
        ):
            raise UserError(f"{lm_path} has other symbols than the recognizer of {decoded}")
        try:
            pairs.append((cut, rescore_nbest(hypotheses, lm.model, weight, length_weight)))
        except ValueError as error:
            raise UserError(f"{cut.id}: {error}; train the language model with a larger lm.max_symbols") from error
    record.begin()
    write_decoded(out_dir, pairs, lm.tokenizer)
    record.keep()
    log(f"rescored {len(pairs)} utterances into {out_dir}")


def _decoding_inputs(model_path: Path, cuts: Path, settings: DecodeConfig) -> dict[str, Any]:
    read = {"model": model_path, "cuts": cuts}
    read |= {"target_lm": Path(settings.fusion.target_lm), "source_lm": Path(settings.fusion.source_lm)}
    inputs = {"stage": "decode", "decode": asdict(settings)}
    return inputs | {f"digest of {name}": digest(path) for name, path in read.items()}


def read_fusion(folder: Path, given: FusionConfig) -> FusionConfig:
    """The language models and weights of an earlier decoding.

    Raises:
        UserError: the folder holds none, or others than ``given``.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{path} is missing; decode with --tune-fusion into that folder first")
    values = json.loads(path.read_text(encoding="utf-8"))["settings"]["fusion"]
    unset = asdict(FusionConfig())
    for name, value in asdict(given).items():
        if value not in (unset[name], values[name]):
            raise UserError(f"decode.fusion.{name} is {value}, but {path} has {values[name]}; leave one of them out")
    return FusionConfig(**values)


def write_lists(path: Path, decoded: list[tuple[Cut, list[Hypothesis]]], tokenizer: Tokenizer) -> None:
    """Writes cuts with their n-best lists."""
    with atomic_path(path) as temporary:
        attach_hypotheses([c for c, _ in decoded], [n for _, n in decoded], tokenizer).to_file(temporary)


def write_decoded(out_dir: Path, decoded: list[tuple[Cut, list[Hypothesis]]], tokenizer: Tokenizer) -> None:
    """Writes the n-best lists, and the best hypotheses and transcripts as trn files."""
    lists, hyp, ref = (out_dir / name for name in DECODED)
    write_lists(lists, decoded, tokenizer)
    speaker = {cut.id: cut.supervisions[0].speaker or cut.id for cut, _ in decoded}
    write_trn(hyp, [(best_text(nbest, tokenizer), speaker[cut.id], cut.id) for cut, nbest in decoded])
    write_trn(ref, [(transcript(cut), speaker[cut.id], cut.id) for cut, _ in decoded])
    subsets = {trn_key(speaker[cut.id], cut.id): subset for cut, _ in decoded if (subset := subset_of(cut))}
    if subsets:
        write_json(out_dir / SUBSETS, subsets)
    else:
        (out_dir / SUBSETS).unlink(missing_ok=True)
