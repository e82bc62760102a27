"""``asrkit prepare | check | combine | features | tokenizer``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from asrkit.cli.common import PATH, Command, already_done, config_options
from asrkit.config_files import load_config
from asrkit.console import log
from asrkit.corpora.prepare import (
    READERS,
    Options,
    check_corpus,
    combine_corpora,
    describe,
    origin,
    prepare_corpus,
    rare,
    read_corpus,
    size,
    splits_to_write,
)
from asrkit.data.cut_files import Roots
from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.folder import DataFolder
from asrkit.data.index import open_index
from asrkit.data.splits import read_splits
from asrkit.data.transcripts import transcript
from asrkit.data.upstream import UNLABELLED, cut_digests, require_same_corpus, splits_of
from asrkit.errors import UserError
from asrkit.features.listen import LOUDEST, MIX, SPLIT, channel_choice
from asrkit.features.normalization import GLOBAL, MeanStd
from asrkit.features.pipeline import FeaturePipeline
from asrkit.files import write_json
from asrkit.processes import CLUSTER
from asrkit.records import INPUTS, Record, again, digest
from asrkit.text.normalize import RULES
from asrkit.text.tokenizer import train_tokenizer


@contextmanager
def _on(address: str | None) -> Iterator[None]:
    """While entered, work is done by the workers of a Dask scheduler."""
    token = CLUSTER.set(address or "")
    yield
    CLUSTER.reset(token)


_CORPUS = click.argument("corpus", type=click.Choice(sorted(READERS)), metavar="CORPUS")
_KINDS = f"CORPUS is {', '.join(sorted(READERS))}."
_CORPUS_DIR = click.option("--corpus-dir", type=PATH, required=True, help="The corpus' release.")
_DATA_DIR = click.option("--data-dir", type=PATH, required=True, help="Where prepared data goes.")
_JOBS = click.option(
    "--num-jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Processes that read audio."
)
_CLUSTER = click.option(
    "--cluster",
    metavar="ADDRESS",
    callback=lambda context, option, address: context.with_resource(_on(address)),
    expose_value=False,
    help="A Dask scheduler, such as tcp://host:8786, whose workers read the audio in place of --num-jobs processes.",
)
_SHAPING = ("sampling_rate_hz", "num_mel_bins", "speed_factors", "tempo_factors", "store")
"""Settings that the feature stage's files depend on; the others are applied in training."""
_FORCE = click.option("--force", is_flag=True, help="Run it again even if it is done.")


def _options(command: Command) -> Command:
    """Adds options for reading a corpus."""
    rules = f"Rules for transcripts, joined by commas, applied in this order: {', '.join(RULES)}."
    which = f"Channel to use: a number from 0, {LOUDEST}, {MIX}, or {SPLIT}, which makes utterances of each."
    unlabelled = "Take the training set without transcripts, for training on speech alone."
    for option in (
        click.option("--unlabelled", is_flag=True, help=unlabelled),
        click.option("--max-seconds", type=click.FloatRange(min=0), help="Exclude longer utterances."),
        click.option("--min-seconds", type=click.FloatRange(min=0), default=0.0, help="Exclude shorter utterances."),
        click.option("--text-normalization", default="", metavar="RULES", help=rules),
        click.option("--channel", default=LOUDEST, show_default=True, help=which),
    ):
        command = option(command)
    return command


@click.command(epilog=_KINDS)
@_CORPUS
@_CORPUS_DIR
@_DATA_DIR
@_JOBS
@_CLUSTER
@_FORCE
@click.option("--skip-bad", is_flag=True, help="Exclude bad utterances; bad.jsonl lists them with reasons.")
@_options
def prepare(
    corpus: str,
    corpus_dir: Path,
    data_dir: Path,
    num_jobs: int,
    force: bool,
    skip_bad: bool,
    channel: str,
    text_normalization: str,
    min_seconds: float,
    max_seconds: float | None,
    unlabelled: bool,
) -> None:
    """Check a corpus and write the CutSets train, dev and test."""
    folder = DataFolder(data_dir)
    options = Options(channel_choice(channel), text_normalization, min_seconds, _limit(max_seconds), unlabelled)
    read = read_corpus(corpus, corpus_dir, folder, options)
    inputs = {
        "stage": "prepare",
        "corpus": corpus,
        "--skip-bad": skip_bad,
        "--channel": channel,
        "--text-normalization": text_normalization,
        "--min-seconds": min_seconds,
        "--max-seconds": max_seconds,
        UNLABELLED: unlabelled,
        "files": origin(read, corpus_dir),
    }
    record = Record(data_dir / INPUTS, inputs, {UNLABELLED: False})
    record = replace(record, complete=record.has("files"))  # earlier versions recorded less
    if not force and folder.cuts("train").is_file() and not record.is_unfinished():
        record.require_same(again("prepares it again"))  # a folder may hold only train
    written = None if force else read_splits(data_dir)
    outputs = [folder.cuts(split) for split in written or splits_to_write(read, options)]
    if already_done(outputs, record, force):
        Roots(folder.path, [corpus_dir.resolve()]).save()  # where the corpus is now
        return
    sizes, notes = prepare_corpus(
        read, corpus_dir, folder, options, skip_bad=skip_bad, num_jobs=num_jobs, begin=record.begin
    )
    record.keep()
    _log_notes(notes)
    log(f"prepared {corpus}: " + ", ".join(f"{split} {number}" for split, number in sizes.items()))


@click.command(epilog=_KINDS)
@_CORPUS
@_CORPUS_DIR
@_DATA_DIR
@_JOBS
@_CLUSTER
@_options
def check(
    corpus: str,
    corpus_dir: Path,
    data_dir: Path,
    num_jobs: int,
    channel: str,
    text_normalization: str,
    min_seconds: float,
    max_seconds: float | None,
    unlabelled: bool,
) -> None:
    """Report every missing, truncated, silent, duplicate or unusable utterance of a corpus, and anything suspicious."""
    options = Options(channel_choice(channel), text_normalization, min_seconds, _limit(max_seconds), unlabelled)
    read = read_corpus(corpus, corpus_dir, DataFolder(data_dir), options)
    number = size(read)
    checked, report = check_corpus(read, options, num_jobs)
    _log_notes([*checked.notes, *rare(checked)])
    if report.problems:
        raise UserError(describe(report.problems, number))
    log(f"{corpus}: {number} utterances, no problems")


def _limit(max_seconds: float | None) -> float:
    return float("inf") if max_seconds is None else max_seconds


def _log_notes(notes: Sequence[str]) -> None:
    for note in notes:
        log(f"note: {note}")


@click.command()
@click.argument("sources", nargs=-1, required=True, type=PATH)
@_DATA_DIR
@_FORCE
def combine(sources: tuple[Path, ...], data_dir: Path, force: bool) -> None:
    """Pool prepared corpora (their data folders) into one."""
    folders, folder = [DataFolder(source) for source in sources], DataFolder(data_dir)
    splits = list(dict.fromkeys(split for source in folders for split in splits_of(source)))
    inputs = {
        "stage": "combine",
        "digests of corpora": [cut_digests(source) for source in folders],
        UNLABELLED: len(splits) == 1,
    }
    record = Record(data_dir / INPUTS, inputs, {UNLABELLED: False})
    if already_done([folder.cuts(split) for split in splits], record, force):
        return
    sizes, notes = combine_corpora(folders, folder, record.begin)
    record.keep()
    _log_notes(notes)
    log(f"combined {len(sources)} corpora: " + ", ".join(f"{split} {number}" for split, number in sizes.items()))


@click.command()
@_DATA_DIR
@_JOBS
@_CLUSTER
@_FORCE
@config_options
def features(data_dir: Path, num_jobs: int, force: bool, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Create speed replicas, feature statistics and, with features.store, the features themselves."""
    settings = load_config(config_path, overrides, reads=("features",)).features
    folder = DataFolder(data_dir)
    require_same_corpus(folder)
    inputs = {
        "features": {name: getattr(settings, name) for name in _SHAPING},
        "statistics by side": settings.normalization == "side",
        "digests of cuts": cut_digests(folder),
    }
    record = Record(folder.statistics.with_name(INPUTS), inputs)
    splits = splits_of(folder)
    if already_done([*(folder.features(split) for split in splits), folder.statistics], record, force):
        return
    cut_sets = {split: folder.read_cuts(split) for split in splits}
    record.begin()
    pipeline = FeaturePipeline(settings.sampling_rate_hz, settings.num_mel_bins, normalization="none")
    statistics: dict[str, MeanStd] = {}
    rates = Counter(cut.sampling_rate for cuts in cut_sets.values() for cut in cuts)
    for rate, number in rates.items():
        if rate != settings.sampling_rate_hz:
            log(f"note: {number} utterances of {rate} Hz are resampled to {settings.sampling_rate_hz} Hz")
    for split, cuts in cut_sets.items():
        computed = compute_statistics(cuts, pipeline, settings.normalization == "side", num_jobs)
        statistics |= {name: item for name, item in computed.items() if name != GLOBAL or split == "train"}
        written = make_features(
            cuts,
            split,
            folder,
            sampling_rate_hz=settings.sampling_rate_hz,
            num_mel_bins=settings.num_mel_bins,
            speed_factors=settings.speed_factors,
            tempo_factors=settings.tempo_factors,
            store=settings.store,
            num_jobs=num_jobs,
        )
        hours = sum(cut.duration for cut in written) / 3600
        log(f"features of {split}: {len(written)} utterances, {hours:.2f} h{', stored' if settings.store else ''}")
    folder.save_statistics(statistics)
    record.keep()
    # If there are no symbols yet, training counts the labels.
    open_index(folder, "train", folder.load_tokenizer() if folder.tokenizer.is_file() else None, num_jobs)
    if "dev" in splits:
        open_index(folder, "dev", num_jobs=num_jobs)


@click.command()
@_DATA_DIR
@_FORCE
@config_options
def tokenizer(data_dir: Path, force: bool, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Build the tokenizer from the training transcripts."""
    settings = load_config(config_path, overrides, reads=("tokenizer",)).tokenizer
    folder = DataFolder(data_dir)
    require_same_corpus(folder)
    inputs: dict[str, object] = {"tokenizer.type": settings.type, "digest of cuts": digest(folder.cuts("train"))}
    if settings.type != "char":
        inputs |= {"tokenizer.vocab_size": settings.vocab_size, "tokenizer.soft_limit": settings.soft_limit}
    record = Record(folder.tokenizer.with_suffix(f".{INPUTS}"), inputs)
    if already_done([folder.tokenizer], record, force):
        return
    texts = [transcript(cut) for cut in folder.read_cuts("train")]
    trained = train_tokenizer(texts, settings.type, settings.vocab_size, settings.soft_limit)
    record.begin()
    write_json(folder.tokenizer, trained.to_dict())
    record.keep()
    log(f"tokenizer: {trained.vocab_size} symbols ({settings.type}) from {len(texts)} transcripts")
