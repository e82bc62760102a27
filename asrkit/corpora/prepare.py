"""From a corpus release to checked CutSets on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from asrkit.corpora.an4 import read_an4
from asrkit.corpora.csj import read_csj
from asrkit.corpora.folder import read_folder
from asrkit.corpora.librispeech import (
    read_librispeech,
    read_librispeech_subset,
    read_mini_librispeech,
    read_mini_librispeech_fifth,
    read_mini_librispeech_rest,
)
from asrkit.corpora.malach import read_malach
from asrkit.corpora.manifests import read_huggingface, read_lhotse, read_nemo
from asrkit.corpora.speechocean762 import read_speechocean762
from asrkit.corpora.splits import across_splits, draw_splits
from asrkit.corpora.switchboard import read_swb300, read_swb2000
from asrkit.corpora.tedlium2 import read_tedlium2
from asrkit.corpora.unpack import UNPACKED, unpack
from asrkit.corpora.utterances import Checked, Corpus, Problem, check, cuts_of, duration_of, overlaps, recordings_of
from asrkit.data.cut_files import Roots, load_roots, write_cuts
from asrkit.data.folder import DataFolder
from asrkit.data.splits import DEV, TRAIN, subset_of, write_splits
from asrkit.data.upstream import splits_of
from asrkit.errors import UserError, shown
from asrkit.features.listen import DIGESTS, LOUDEST, SPLIT
from asrkit.files import write_text
from asrkit.records import digest, stamp
from asrkit.text.normalize import RARE, each_alternative, look_alikes, normalizer, rare_characters

READERS: dict[str, Callable[[Path, Path], Corpus]] = {
    "an4": read_an4,
    "csj": read_csj,
    "folder": read_folder,
    "huggingface": read_huggingface,
    "lhotse": read_lhotse,
    "librispeech_100": partial(read_librispeech, train=("train-clean-100",)),
    "librispeech_860": partial(read_librispeech, train=("train-clean-360", "train-other-500")),
    "librispeech_960": partial(read_librispeech, train=("train-clean-100", "train-clean-360", "train-other-500")),
    "librispeech_subset": read_librispeech_subset,
    "malach": read_malach,
    "mini_librispeech": read_mini_librispeech,
    "mini_librispeech_fifth": read_mini_librispeech_fifth,
    "mini_librispeech_rest": read_mini_librispeech_rest,
    "nemo": read_nemo,
    "speechocean762": read_speechocean762,
    "swb300": read_swb300,
    "swb2000": read_swb2000,
    "tedlium2": read_tedlium2,
}
"""(corpus folder, data folder for rewritten audio) to a corpus."""
MOST_SHOWN = 200
"""Problems that a message lists."""
MOST_CHARACTERS = 20
OTHER_DIGESTS = (
    "some of the corpora were prepared by an earlier version, so the same audio in train of one and in dev or test of "
    "another is not found; prepare them again to find it"
)


@dataclass(frozen=True)
class Options:
    """How a corpus is read."""

    channel: str = LOUDEST
    """A choice of :func:`asrkit.features.listen.channel_choice`."""
    text_normalization: str = ""
    """Rules of :mod:`asrkit.text.normalize`."""
    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    unlabelled: bool = False
    """Whether to ignore transcripts and keep only training data: utterances in train or in no split."""


def read_corpus(corpus: str, corpus_dir: Path, folder: DataFolder, options: Options) -> Corpus:
    """Reads a corpus's lists and applies the transcript rules.

    Raises:
        UserError: the folder is not such a corpus, or a list cannot be read.
    """
    normalize = normalizer(options.text_normalization)
    corpus_dir = corpus_dir.resolve()
    if options.channel == SPLIT and corpus != "folder":
        raise UserError(f"--channel {SPLIT} is for a corpus of kind folder; {corpus} has its own utterances")
    if corpus == "folder":
        loaded = read_folder(corpus_dir, folder.path, options.channel, options.unlabelled)
    else:
        loaded = READERS[corpus](corpus_dir, folder.path)
    if options.unlabelled:
        # The audio of dev and test is not read.
        training = [u for u in loaded.utterances if u.split in ("", "train")]
        if left_out := len(loaded.utterances) - len(training):
            loaded.notes.append(f"{left_out} utterances of dev and test are left out")
        loaded.utterances = [replace(u, split="train", text=None) for u in training]
    loaded.utterances = [
        u if u.text is None else replace(u, text=each_alternative(u.text, normalize)) for u in loaded.utterances
    ]
    return loaded


def origin(corpus: Corpus, corpus_dir: Path) -> dict[str, Any]:
    """The inputs of a corpus's cuts: digests of its lists, sizes and times of its audio, by path."""
    folder = f"{corpus_dir.resolve()}/"

    def name(path: Path) -> str:
        return str(path).removeprefix(folder)

    stamps = {path: stamp(path) for path in dict.fromkeys(u.audio for u in corpus.utterances if u.audio)}
    # Missing files are reported by the check.
    audio = {shown(name(path)): value for path, value in stamps.items() if value}
    return {"list": {shown(name(path)): digest(path) for path in corpus.lists}, "audio": audio}


def check_corpus(corpus: Corpus, options: Options, num_jobs: int) -> tuple[Corpus, Checked]:
    """Reads a corpus's audio, draws missing splits, and finds all problems and anything suspicious.

    Raises:
        UserError: splits cannot be drawn.
    """
    choice = LOUDEST if options.channel == SPLIT else options.channel
    checked = check(corpus.utterances, num_jobs, choice, options.unlabelled)
    checked.problems = corpus.problems + checked.problems
    by_id = {u.id: u for u in corpus.utterances}
    durations = {id: duration_of(by_id[id], sound) for id, sound in checked.heard.items()}
    excluded = [id for id, seconds in durations.items() if not options.min_seconds <= seconds <= options.max_seconds]
    if excluded:
        example = f"{excluded[0]} ({durations[excluded[0]]:.2f} s)"
        checked.notes.append(
            f"excluded by --min-seconds and --max-seconds: {len(excluded)} utterances, such as {example}"
        )
    for id in {*(problem.id for problem in corpus.problems), *excluded} & checked.heard.keys():
        del checked.heard[id], durations[id]
    checked.notes += overlaps(u for u in corpus.utterances if u.id in checked.heard)
    utterances = draw_splits(corpus.utterances, durations)
    notes = [*corpus.notes, *checked.notes, *across_splits(utterances, durations), *_look_alikes(corpus)]
    return replace(corpus, utterances=utterances, notes=notes), checked


def _look_alikes(corpus: Corpus) -> list[str]:
    return [
        f"these characters look alike and count as different ones: {_named(group)}"
        for group in look_alikes(u.text for u in corpus.utterances if u.text)
    ]


def rare(corpus: Corpus) -> list[str]:
    """A note on rare characters, which are often typing errors."""
    characters = [c for c, _ in rare_characters(u.text for u in corpus.utterances if u.text)]
    more = " …" if len(characters) > MOST_CHARACTERS else ""
    text = f"{len(characters)} characters occur at most {RARE} times: {_named(characters[:MOST_CHARACTERS])}{more}"
    return [text] if characters else []


def _named(characters: Iterable[str]) -> str:
    return ", ".join(f"'{shown(c)}' (U+{ord(c):04X})" for c in characters)


def prepare_corpus(
    corpus: Corpus,
    corpus_dir: Path,
    folder: DataFolder,
    options: Options = Options(),
    *,
    skip_bad: bool,
    num_jobs: int,
    begin: Callable[[], None] = lambda: None,
) -> tuple[dict[str, int], list[str]]:
    """Checks a corpus and writes ``train``, ``dev`` and ``test``; only ``train`` if unlabelled.

    Args:
        corpus: from :func:`read_corpus`.
        corpus_dir: the release.
        folder: where the CutSets go.
        options: how it was read.
        skip_bad: write bad utterances to ``bad.jsonl``, with reasons, and continue without them.
        num_jobs: processes.
        begin: called before the first CutSet is written.

    Returns:
        Utterances by split, and notes for the user.

    Raises:
        UserError: bad utterances without ``skip_bad`` (all in one message), or an empty split.
    """
    number = size(corpus)
    corpus = unpack(corpus, corpus_dir, folder.path / UNPACKED, num_jobs)
    corpus, checked = check_corpus(corpus, options, num_jobs)
    if checked.problems and not skip_bad:
        raise UserError(describe(checked.problems, number))
    numbers: dict[str, Counter[str]] = {}
    for u in corpus.utterances:
        if u.id in checked.heard:
            numbers.setdefault(u.split, Counter())[u.subset] += 1
    splits = splits_to_write(corpus, options)
    empty = [split for split in splits if split not in numbers]
    if len(corpus.tests) > 1:  # each is optional
        corpus.notes += [f"there are no utterances of {split}" for split in empty if split in corpus.tests]
        splits = [split for split in splits if split in numbers or split not in corpus.tests]
        empty = [split for split in empty if split in splits]
    if empty:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in _kinds(checked.problems).items())
        raise UserError(
            f"no usable utterances in {', '.join(empty)} of {corpus_dir} ({reasons or 'the lists name none'}); run "
            "`asrkit check` to see why"
        )
    begin()
    roots = Roots(folder.path, [corpus_dir.resolve()])
    roots.save()
    write_text(folder.bad, "".join(json.dumps(vars(p)) + "\n" for p in checked.problems))
    recordings = recordings_of(corpus.utterances, checked.heard)
    for split in splits:
        write_cuts(folder.cuts(split), cuts_of(split, corpus.utterances, checked.heard, recordings), roots)
    write_splits(folder.path, {split: numbers[split] for split in splits})
    excluded = [f"excluded {len({p.id for p in checked.problems})} of {number} utterances, listed in {folder.bad}"]
    notes = corpus.notes + (excluded if checked.problems else [])
    return {split: numbers[split].total() for split in splits}, notes


def splits_to_write(corpus: Corpus, options: Options) -> list[str]:
    """Names of the splits of a corpus that is read with these options."""
    return [TRAIN] if options.unlabelled else [TRAIN, DEV, *corpus.tests]


def size(corpus: Corpus) -> int:
    """Utterances of a corpus, including those only in a list."""
    return len({u.id for u in corpus.utterances} | {p.id for p in corpus.problems})


def combine_corpora(
    sources: Sequence[DataFolder], folder: DataFolder, begin: Callable[[], None] = lambda: None
) -> tuple[dict[str, int], list[str]]:
    """Pools prepared corpora, split by split, into another data folder.

    Args:
        sources: the corpora.
        folder: where the pool goes.
        begin: called before the first output is written.

    Returns:
        Utterances by split, and notes for the user.

    Raises:
        UserError: a corpus is not prepared, only some have transcripts, two share an id, or two splits share audio.
    """
    labelled = [len(splits_of(source)) > 1 for source in sources]
    if different := [source for source, label in zip(sources, labelled, strict=True) if label != labelled[0]]:
        raise UserError(
            f"one of {sources[0].path} and {different[0].path} has no transcripts; combine corpora of a kind"
        )
    splits = list(dict.fromkeys(split for source in sources for split in splits_of(source)))
    pools: dict[str, list[Cut]] = {}
    places: dict[str, str] = {}
    for split in splits:
        cuts = [cut for source in sources if split in splits_of(source) for cut in source.read_cuts(split)]
        seen: set[str] = set()
        for cut in cuts:
            if cut.id in seen:
                raise UserError(f"{split}: two of the corpora have an utterance {cut.id}; rename it in one of them")
            seen.add(cut.id)
            if (content := _content(cut)) and places.setdefault(content, split) != split:
                raise UserError(
                    f"the audio of {cut.id} is in {places[content]} of one corpus and in {split} of another; leave it "
                    "out of one of them"
                )
        pools[split] = cuts
    begin()
    corpora = [path for source in sources for path in (*load_roots(source.path).corpora, source.path.resolve())]
    roots = Roots(folder.path, list(dict.fromkeys(corpora)))
    roots.save()
    for split, cuts in pools.items():
        write_cuts(folder.cuts(split), cuts, roots)
    write_splits(folder.path, {split: Counter(map(subset_of, cuts)) for split, cuts in pools.items()})
    speakers = {split: {cut.supervisions[0].speaker for cut in cuts} for split, cuts in pools.items()}
    notes = [OTHER_DIGESTS] if len({content.startswith(DIGESTS) for content in places}) > 1 else []
    notes += [
        f"{len(shared)} speakers of {split} are in train too, such as {min(map(str, shared))}"
        for split in splits[1:]
        if (shared := speakers["train"] & speakers[split])
    ]
    return {split: len(cuts) for split, cuts in pools.items()}, notes


def _content(cut: Cut) -> str:
    """Identifies the audio of a cut; empty if unknown."""
    audio_digest = (cut.custom or {}).get("audio_digest", "")
    return f"{audio_digest} {cut.start} {cut.duration}" if audio_digest else ""


def describe(problems: list[Problem], number: int) -> str:
    """All problems in one message, with counts by reason."""
    rows = "".join(f"\n  {shown(p.id)}: {p.reason}" for p in problems[:MOST_SHOWN])
    bad = len({p.id for p in problems})
    kinds = _kinds(problems)
    counts = "".join(f"\n  {n} × {reason}" for reason, n in kinds.items()) if len(problems) > len(kinds) else ""
    more = f"\n  … and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
    remedy = "fix them or exclude them with asrkit prepare --skip-bad"
    return f"{bad} of {number} utterances cannot be used; {remedy}:{counts}{rows}{more}"


def _kinds(problems: Sequence[Problem]) -> Mapping[str, int]:
    """How often each reason is given, without utterance-specific details."""
    return dict(Counter(p.reason.split(":")[0].split(" (")[0] for p in problems).most_common())
