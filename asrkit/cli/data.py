"""``asrkit prepare | check | combine | features | tokenizer``."""

from __future__ import annotations

from pathlib import Path

import click

from asrkit.cli.common import MADE_OF, PATH, Made, config_options, digest, done_before, experiment
from asrkit.corpora.prepare import READERS, SPLITS, check_corpus, combine_corpora, cuts_path, describe, prepare_corpus
from asrkit.data.feature_store import (
    STATISTICS,
    compute_statistics,
    features_path,
    make_features,
    read_cuts,
    save_statistics,
)
from asrkit.data.loaders import transcript
from asrkit.errors import UserError
from asrkit.features.normalization import GLOBAL, MeanStd
from asrkit.features.pipeline import FeaturePipeline
from asrkit.files import write_json
from asrkit.text.tokenizer import train_tokenizer
from asrkit.training.progress import log
from asrkit.training.run import tokenizer_path

_CORPUS = click.argument("corpus", type=click.Choice(sorted(READERS)))
_CORPUS_DIR = click.option("--corpus-dir", type=PATH, required=True, help="The corpus' release.")
_DATA_DIR = click.option("--data-dir", type=PATH, required=True, help="Where prepared data goes.")
_JOBS = click.option("--num-jobs", default=2, show_default=True, help="Processes that listen to audio.")
_SHAPING = ("sampling_rate_hz", "num_mel_bins", "speed_factors", "tempo_factors", "store")
"""Settings that the feature stage's files depend on; the others are applied while training."""
_FORCE = click.option("--force", is_flag=True, help="Make it again where it is done.")


@click.command()
@_CORPUS
@_CORPUS_DIR
@_DATA_DIR
@_JOBS
@_FORCE
@click.option("--skip-bad", is_flag=True, help="Set bad utterances aside in bad.jsonl, with reasons.")
def prepare(corpus: str, corpus_dir: Path, data_dir: Path, num_jobs: int, force: bool, skip_bad: bool) -> None:
    """Check a corpus and write the CutSets train, dev and test."""
    made = Made(data_dir / MADE_OF, {"stage": "prepare", "corpus": corpus, "corpus_dir": str(corpus_dir.resolve())})
    if done_before([cuts_path(data_dir, split) for split in SPLITS], force, made=made):
        return
    sizes = prepare_corpus(corpus, corpus_dir, data_dir, skip_bad=skip_bad, num_jobs=num_jobs)
    made.keep()
    log(f"prepared {corpus}: " + ", ".join(f"{split} {number}" for split, number in sizes.items()))


@click.command()
@_CORPUS
@_CORPUS_DIR
@_DATA_DIR
@_JOBS
def check(corpus: str, corpus_dir: Path, data_dir: Path, num_jobs: int) -> None:
    """Report every missing, truncated, silent, duplicate or unusable utterance of a corpus."""
    problems, number = check_corpus(corpus, corpus_dir, data_dir, num_jobs)
    if problems:
        raise UserError(describe(problems, number))
    log(f"{corpus}: {number} utterances, no problems")


@click.command()
@click.argument("sources", nargs=-1, required=True, type=PATH)
@_DATA_DIR
@_FORCE
def combine(sources: tuple[Path, ...], data_dir: Path, force: bool) -> None:
    """Pool prepared corpora (their data folders) into one."""
    digests = [_cut_digests(source) for source in sources]
    made = Made(data_dir / MADE_OF, {"stage": "combine", "digests of corpora": digests})
    if done_before([cuts_path(data_dir, split) for split in SPLITS], force, made=made):
        return
    sizes = combine_corpora(sources, data_dir)
    made.keep()
    log(f"combined {len(sources)} corpora: " + ", ".join(f"{split} {number}" for split, number in sizes.items()))


@click.command()
@_DATA_DIR
@_FORCE
@config_options
def features(data_dir: Path, force: bool, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Make speed replicas, feature statistics and, with features.store, the features themselves."""
    settings = experiment(config_path, overrides).features
    outputs = [features_path(data_dir, split) for split in SPLITS] + [data_dir / "features" / STATISTICS]
    shaping = {name: getattr(settings, name) for name in _SHAPING}
    by_side = settings.normalization == "side"
    made_of = {"features": shaping, "statistics by side": by_side, "digests of cuts": _cut_digests(data_dir)}
    made = Made(data_dir / "features" / MADE_OF, made_of)
    if done_before(outputs, force, made=made):
        return
    pipeline = FeaturePipeline(settings.sampling_rate_hz, settings.num_mel_bins, normalization="none")
    statistics: dict[str, MeanStd] = {}
    for split in SPLITS:
        cuts = read_cuts(cuts_path(data_dir, split))
        found = compute_statistics(cuts, pipeline, by_side)
        statistics |= {name: item for name, item in found.items() if name != GLOBAL or split == "train"}
        written = make_features(
            cuts, split, data_dir, sampling_rate_hz=settings.sampling_rate_hz, num_mel_bins=settings.num_mel_bins,
            speed_factors=settings.speed_factors, tempo_factors=settings.tempo_factors, store=settings.store,
        )  # fmt: skip
        hours = sum(cut.duration for cut in written) / 3600
        log(f"features of {split}: {len(written)} utterances, {hours:.2f} h{', stored' if settings.store else ''}")
    save_statistics(data_dir, statistics)
    made.keep()


@click.command()
@_DATA_DIR
@_FORCE
@config_options
def tokenizer(data_dir: Path, force: bool, config_path: Path | None, overrides: tuple[str, ...]) -> None:
    """Make the tokenizer from the training transcripts."""
    settings, path = experiment(config_path, overrides).tokenizer, tokenizer_path(data_dir)
    cuts = cuts_path(data_dir, "train")
    made_of: dict[str, object] = {"tokenizer.type": settings.type, "digest of cuts": digest(cuts)}
    if settings.type != "char":
        made_of["tokenizer.vocab_size"] = settings.vocab_size
    made = Made(path.with_suffix(f".{MADE_OF}"), made_of)
    if done_before([path], force, made=made):
        return
    texts = [transcript(cut) for cut in read_cuts(cuts)]
    trained = train_tokenizer(texts, settings.type, settings.vocab_size)
    write_json(path, trained.to_dict())
    made.keep()
    log(f"tokenizer: {trained.vocab_size} symbols ({settings.type}) from {len(texts)} transcripts")


def _cut_digests(data_dir: Path) -> dict[str, str | None]:
    return {split: digest(cuts_path(data_dir, split)) for split in SPLITS}
