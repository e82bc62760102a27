"""Whether what a stage reads is still what the stages before it made, and their corpus what they read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrkit.data.cut_files import load_roots
from asrkit.data.folder import SPLITS, DataFolder
from asrkit.errors import UserError
from asrkit.records import INPUTS, digest


def cut_digests(folder: DataFolder) -> dict[str, str | None]:
    """Tells the cuts of ``prepare`` from others."""
    return {split: digest(folder.cuts(split)) for split in SPLITS}


def data_inputs(folder: DataFolder) -> dict[str, Any]:
    """What a training depends on, of prepared data."""
    read = {f"{split} cuts": folder.features(split) for split in ("train", "dev")}
    read |= {"tokenizer": folder.tokenizer, "statistics": folder.statistics}
    return {f"digest of {name}": digest(path) for name, path in read.items()}


def require_same_corpus(folder: DataFolder) -> None:
    """Refuses prepared data whose corpus has changed since. A corpus that is gone is not missed.

    Raises:
        UserError: a list or an audio file has changed; it is named.
    """
    files, roots = _inputs(folder.path / INPUTS).get("files"), load_roots(folder.path).corpora
    if not isinstance(files, dict) or not roots:
        return
    remedy = "run asrkit prepare --force and the stages after it (run.sh --force-from 1), or restore it"
    for name, before in _items(files, "list"):
        if digest(roots[0] / name) not in (None, before):
            raise UserError(f"{roots[0] / name} has changed since it was prepared; {remedy}")
    for name, before in _items(files, "audio"):
        path = roots[0] / name
        if path.is_file() and f"{path.stat().st_size} bytes of {path.stat().st_mtime_ns}" != before:
            raise UserError(f"{path} has changed since it was prepared; {remedy}")


def require_current(folder: DataFolder) -> None:
    """Refuses prepared data whose corpus or earlier stages have changed since.

    Raises:
        UserError: something has changed; it is named, with the stage to run again.
    """
    require_same_corpus(folder)
    now = cut_digests(folder)
    made = _inputs(folder.statistics.with_name(INPUTS)).get("digests of cuts")
    for split, before in made.items() if isinstance(made, dict) else ():
        if now.get(split) not in (None, before):
            cuts = folder.cuts(split)
            raise UserError(f"{cuts} has changed since features were made of it; run asrkit features --force")
    before = _inputs(folder.tokenizer.with_suffix(f".{INPUTS}")).get("digest of cuts")
    if before is not None and now["train"] not in (None, before):
        cuts = folder.cuts("train")
        raise UserError(f"{cuts} has changed since the tokenizer was made of it; run asrkit tokenizer --force")


def _items(files: Mapping[str, Any], kind: str) -> list[tuple[str, Any]]:
    found = files.get(kind)
    return list(found.items()) if isinstance(found, dict) else []


def _inputs(path: Path) -> dict[str, Any]:
    """A record, empty where there is none that can be read; its own stage says so."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
