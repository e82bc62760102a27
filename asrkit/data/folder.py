"""The paths of prepared data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet
from safetensors.torch import save_file

from asrkit.data.cut_files import load_roots, read_cuts
from asrkit.errors import UserError
from asrkit.features.normalization import MeanStd
from asrkit.files import atomic_path
from asrkit.tensor_files import read_tensors
from asrkit.text.tokenizer import Tokenizer, tokenizer_from_dict

SPLITS = ("train", "dev", "test")
"""Splits of most corpora; see :mod:`asrkit.data.splits`."""


@dataclass(frozen=True)
class DataFolder:
    """The files of a prepared corpus."""

    path: Path

    def cuts(self, split: str) -> Path:
        """The CutSet of a split, as ``asrkit prepare`` wrote it."""
        return self.path / f"{split}.jsonl.gz"

    @property
    def bad(self) -> Path:
        """Excluded utterances, with reasons."""
        return self.path / "bad.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The symbols."""
        return self.path / "tokenizer.json"

    def features(self, split: str) -> Path:
        """The CutSet of a split with replicas (train) and, if requested, stored features."""
        return self.path / "features" / f"{split}.jsonl.gz"

    def index(self, split: str) -> Path:
        """The folder of a split's index, see :mod:`asrkit.data.index`."""
        return self.path / "features" / f"{split}_index"

    def arrays(self, split: str) -> Path:
        """The folder of a split's stored features."""
        return self.path.resolve() / "features" / f"{split}_numpy"

    def tempo_audio(self, factor: float, id: str) -> Path:
        """The audio of a tempo replica, named by a hash so that no id escapes the folder."""
        name = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        return self.path.resolve() / "features" / "tempo" / f"{factor}" / f"{name}.flac"

    def alignments(self, split: str) -> Path:
        """The times of a split's symbols, as ``asrkit align`` wrote them."""
        return self.path / "alignments" / f"{split}.safetensors"

    @property
    def statistics(self) -> Path:
        """Mean and deviation of the features."""
        return self.path / "features" / "statistics.safetensors"

    def read_cuts(self, split: str) -> CutSet:
        """A split before the feature stage; see :func:`read_cuts`."""
        return read_cuts(self.cuts(split), load_roots(self.path), "asrkit prepare or combine")

    def read_features(self, split: str) -> CutSet:
        """A split after the feature stage; see :func:`read_cuts`."""
        return read_cuts(self.features(split), load_roots(self.path), "asrkit features")

    def load_tokenizer(self) -> Tokenizer:
        """The symbols.

        Raises:
            UserError: they do not exist yet, or cannot be read.
        """
        return load_tokenizer(self.tokenizer)

    def save_statistics(self, statistics: dict[str, MeanStd]) -> None:
        """Writes the statistics of the features, by group."""
        tensors = {
            f"{name}/{part}": getattr(item, part) for name, item in statistics.items() for part in ("mean", "std")
        }
        with atomic_path(self.statistics) as temporary:
            save_file(tensors, temporary)

    def load_statistics(self) -> dict[str, MeanStd]:
        """Reads the file of :meth:`save_statistics`.

        Raises:
            UserError: the file is missing, or cannot be read.
        """
        path = self.statistics
        if not path.is_file():
            raise UserError(f"{path} is missing; run asrkit features first")
        tensors = read_tensors(path, "remove it and run asrkit features again")
        names = {name.rsplit("/", 1)[0] for name in tensors}
        return {name: MeanStd(tensors[f"{name}/mean"], tensors[f"{name}/std"]) for name in sorted(names)}


def load_tokenizer(path: Path) -> Tokenizer:
    """The symbols in an ``asrkit tokenizer`` file.

    Raises:
        UserError: they do not exist yet, or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; run asrkit tokenizer first")
    try:
        return tokenizer_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run asrkit tokenizer again") from error
