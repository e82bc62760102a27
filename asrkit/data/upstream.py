"""Checks whether the corpus or the outputs of earlier stages have changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrkit.data.cut_files import load_roots
from asrkit.data.folder import SPLITS, DataFolder
from asrkit.data.index import digest_of_cuts
from asrkit.data.splits import read_splits
from asrkit.errors import UserError
from asrkit.records import INPUTS, UNFINISHED, digest, stamp

UNLABELLED = "--unlabelled"


def splits_of(folder: DataFolder) -> tuple[str, ...]:
    """The splits of prepared data; only ``train`` for speech without transcripts."""
    if _inputs(folder.path / INPUTS).get(UNLABELLED):
        return SPLITS[:1]
    return read_splits(folder.path) or SPLITS


def cut_digests(folder: DataFolder) -> dict[str, str | None]:
    """Digests of the cuts of ``prepare``."""
    return {split: digest(folder.cuts(split)) for split in dict.fromkeys((*SPLITS, *splits_of(folder)))}


def data_inputs(folder: DataFolder) -> dict[str, Any]:
    """Digests of the prepared data that training depends on."""
    cuts = {f"digest of {split} cuts": digest_of_cuts(folder, split) for split in ("train", "dev")}
    return cuts | {
        "digest of tokenizer": digest(folder.tokenizer),
        "digest of statistics": digest(folder.statistics),
    }


def require_same_corpus(folder: DataFolder) -> None:
    """Rejects prepared data whose corpus has changed. A missing corpus is not an error.

    Raises:
        UserError: a list or an audio file has changed; it is named.
    """
    record, roots = _inputs(folder.path / INPUTS), load_roots(folder.path).corpora
    if record.get(UNFINISHED):
        raise UserError(f"{folder.path} was not prepared to the end; run asrkit prepare or combine again")
    sources = [DataFolder(root) for root in roots if (root / INPUTS).is_file()]
    for source, before in zip(sources, record.get("digests of corpora", ()), strict=False):
        require_same_corpus(source)
        if cut_digests(source) != before:
            raise UserError(f"{source.path} has changed since it was combined; run asrkit combine --force")
    files = record.get("files")
    if not isinstance(files, dict) or not roots:
        return
    remedy = "run asrkit prepare --force and the stages after it (run.sh --force-from 1), or restore it"
    for name, before in _items(files, "list"):
        if digest(roots[0] / name) not in (None, before):
            raise UserError(f"{roots[0] / name} has changed since it was prepared; {remedy}")
    for name, before in _items(files, "audio"):
        if stamp(roots[0] / name) not in (None, before):
            raise UserError(f"{roots[0] / name} has changed since it was prepared; {remedy}")


def require_current(folder: DataFolder) -> None:
    """Rejects prepared data whose corpus or earlier stages have changed.

    Raises:
        UserError: names what has changed and the stage to run again.
    """
    require_same_corpus(folder)
    now = cut_digests(folder)
    features = _inputs(folder.statistics.with_name(INPUTS))
    if features.get(UNFINISHED):
        raise UserError(f"the features of {folder.path} are incomplete; run asrkit features again")
    digests = features.get("digests of cuts")
    for split, before in digests.items() if isinstance(digests, dict) else ():
        if now.get(split) != before and (cuts := folder.cuts(split)).is_file():
            raise UserError(f"{cuts} has changed since its features were computed; run asrkit features --force")
    before = _inputs(folder.tokenizer.with_suffix(f".{INPUTS}")).get("digest of cuts")
    if before is not None and now["train"] != before and (cuts := folder.cuts("train")).is_file():
        raise UserError(f"{cuts} has changed since the tokenizer was trained; run asrkit tokenizer --force")


def _items(files: Mapping[str, Any], kind: str) -> list[tuple[str, Any]]:
    items = files.get(kind)
    return list(items.items()) if isinstance(items, dict) else []


def _inputs(path: Path) -> dict[str, Any]:
    """A record, empty if missing or unreadable, which its stage reports."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
