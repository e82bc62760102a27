"""From a corpus release to checked CutSets on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut

from asrkit.corpora.an4 import read_an4
from asrkit.corpora.folder import read_folder
from asrkit.corpora.librispeech import read_librispeech_subset, read_mini_librispeech
from asrkit.corpora.speechocean762 import read_speechocean762
from asrkit.corpora.utterances import Problem, Utterance, check, to_cut_sets
from asrkit.data.folder import SPLITS, DataFolder
from asrkit.errors import UserError
from asrkit.files import atomic_path, write_text

READERS: dict[str, Callable[[Path, Path], list[Utterance]]] = {
    "an4": read_an4,
    "folder": read_folder,
    "librispeech_subset": read_librispeech_subset,
    "mini_librispeech": read_mini_librispeech,
    "speechocean762": read_speechocean762,
}
"""(corpus folder, data folder for what has to be rewritten) to utterances."""


def check_corpus(corpus: str, corpus_dir: Path, folder: DataFolder, num_jobs: int) -> tuple[list[Problem], int]:
    """Problems of a corpus, and how many utterances it has."""
    utterances = READERS[corpus](corpus_dir, folder.path)
    return check(utterances, num_jobs)[0], len(utterances)


def prepare_corpus(
    corpus: str,
    corpus_dir: Path,
    folder: DataFolder,
    *,
    skip_bad: bool,
    num_jobs: int,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Checks a corpus and writes ``train``, ``dev`` and ``test``.

    Args:
        corpus: a key of ``READERS``.
        corpus_dir: the release.
        folder: where the CutSets go.
        skip_bad: write bad utterances to ``bad.jsonl``, with reasons, and continue without them.
        num_jobs: processes.
        begin: called before the first output is written.

    Returns:
        Utterances by split.

    Raises:
        UserError: bad utterances without ``skip_bad`` (all in one message), or an empty split.
    """
    utterances = READERS[corpus](corpus_dir.resolve(), folder.path)
    problems, recordings = check(utterances, num_jobs)
    if problems and not skip_bad:
        raise UserError(describe(problems, len(utterances)))
    cut_sets = to_cut_sets(utterances, recordings)
    empty = [split for split in SPLITS if split not in cut_sets]
    if empty:
        raise UserError(f"no usable utterances in {', '.join(empty)} of {corpus_dir}; run `asrkit check` to see why")
    begin()
    if problems:
        write_text(folder.bad, "".join(json.dumps(vars(p)) + "\n" for p in problems))
    for split in SPLITS:
        with atomic_path(folder.cuts(split)) as temporary:
            cut_sets[split].to_file(temporary)
    return {split: len(cut_sets[split]) for split in SPLITS}


def combine_corpora(
    sources: Sequence[DataFolder], folder: DataFolder, begin: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Pools prepared corpora, split by split, into another data folder.

    Args:
        sources: the corpora.
        folder: where the pool goes.
        begin: called before the first output is written.

    Returns:
        Utterances by split.

    Raises:
        UserError: a corpus that is not prepared, or an id that two of them have.
    """
    pools: dict[str, list[Cut]] = {}
    for split in SPLITS:
        cuts = [cut for source in sources for cut in _read(source.cuts(split))]
        seen: set[str] = set()
        for cut in cuts:
            if cut.id in seen:
                raise UserError(f"{split}: two of the corpora have an utterance {cut.id}; rename it in one of them")
            seen.add(cut.id)
        pools[split] = cuts
    begin()
    for split, cuts in pools.items():
        with atomic_path(folder.cuts(split)) as temporary:
            CutSet.from_cuts(cuts).to_file(temporary)
    return {split: len(cuts) for split, cuts in pools.items()}


def _read(path: Path) -> CutSet:
    if not path.is_file():
        raise UserError(f"{path} is missing; prepare that corpus first")
    return CutSet.from_file(path)


def describe(problems: list[Problem], number: int) -> str:
    """All problems in one message."""
    rows = "".join(f"\n  {p.id}: {p.reason}" for p in problems)
    bad = len({p.id for p in problems})
    return f"{bad} of {number} utterances cannot be used; fix them or exclude them with --skip-bad:{rows}"
