"""The splits of prepared data, their roles, and the subsets that are scored separately.

``train`` and ``dev`` have fixed names; a corpus may have any number of test sets with other names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from asrkit.errors import UserError
from asrkit.files import write_json

TRAIN, DEV, TEST = "train", "dev", "test"
"""Roles; the first two are also names of splits."""
FILE = "splits.json"
SUBSET = "subset"
"""Custom field of a supervision."""


def subset_of(cut: Cut) -> str:
    """The subset of its split that an utterance is scored with; empty if there are none."""
    return str((cut.supervisions[0].custom or {}).get(SUBSET, ""))


def write_splits(folder: Path, numbers: Mapping[str, Mapping[str, int]]) -> None:
    """Writes the splits of prepared data.

    Args:
        folder: of prepared data.
        numbers: for each split, the number of utterances by subset; the empty name is for no subset.
    """
    values: dict[str, dict[str, Any]] = {}
    for split, by_subset in numbers.items():
        values[split] = {"role": split if split in (TRAIN, DEV) else TEST, "utterances": sum(by_subset.values())}
        if subsets := {name: by_subset[name] for name in sorted(by_subset) if name}:
            values[split]["subsets"] = subsets
    write_json(folder / FILE, values)


def read_splits(folder: Path) -> tuple[str, ...] | None:
    """The names of the splits in order; None for data prepared by an earlier version, without the file.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); run asrkit prepare --force") from error
