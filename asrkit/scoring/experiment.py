"""The results of training and decoding in an experiment folder, as rows of a results table."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle, load_recognizer
from asrkit.config_training import STATE_SPACES
from asrkit.errors import UserError
from asrkit.models.dss_spectrum import dss_spectra, movements, spectrum_table
from asrkit.models.transducer import Transducer, num_parameters
from asrkit.scoring.report import read_score_file, read_values, require_numbers

COLUMNS = (
    "experiment",
    "split",
    "search",
    "WER %",
    "95 % interval",
    "S / D / I",
    "CER %",
    "parameters",
    "epochs",
    "train min",
    "seed",
)


@dataclass(frozen=True)
class Experiment:
    """An experiment that was trained, decoded and scored."""

    path: Path
    bundle: ModelBundle[Transducer]
    metrics: list[dict[str, Any]]
    """One line per epoch."""
    scores: dict[tuple[str, str], dict[str, Any]]
    """By split and search."""
    folders: dict[tuple[str, str], Path]
    """The folder of each decoding, by split and search."""

    def rows(self) -> list[tuple[str, ...]]:
        """A row of :data:`COLUMNS` for each decoding."""
        minutes = sum(line["seconds"] for line in self.metrics) / 60
        rows: list[tuple[str, ...]] = []
        scores = [
            (name, search, part)
            for (split, search), values in sorted(self.scores.items())
            for name, part in ((split, values), *_subsets(split, values))
        ]
        for split, search, values in scores:
            wer, (low, high) = values["wer"], values["wer"]["interval_95"]
            rows.append(
                (
                    self.path.name,
                    split,
                    search,
                    f"{wer['rate']:.2f}",
                    f"{low:.2f} – {high:.2f}",
                    f"{wer['substitutions']} / {wer['deletions']} / {wer['insertions']}",
                    f"{values['cer']['rate']:.2f}",
                    f"{num_parameters(self.bundle.model):,}",
                    str(len(self.metrics)),
                    f"{minutes:.1f}",
                    str(self.bundle.config.train.seed),
                )
            )
        return rows

    def state_spaces(self) -> str:
        """A Markdown table of a DSSformer's state spaces, and of what they have learned; empty for other encoders."""
        spectra = dss_spectra(self.bundle.model)
        if not spectra:
            return ""
        config = self.bundle.config
        if config.train.init_from:  # the initial values are unknown
            return spectrum_table(spectra)
        torch.manual_seed(config.train.seed)
        initial = build_transducer(config, self.bundle.tokenizer.vocab_size)
        return spectrum_table(spectra, movements(initial, self.bundle.model), self.could_move())

    def could_move(self) -> float:
        """Approximately how far a state space parameter can move: the sum of its learning rates.

        Adam moves a parameter by at most about the learning rate per update.
        """
        rates = [line["lr"] for line in self.metrics]
        ends = [*rates[1:], rates[-1] if len(rates) < 2 else max(0.0, 2 * rates[-1] - rates[-2])]
        groups = self.bundle.config.train.optimizer.groups
        scale = groups[STATE_SPACES].lr_scale if STATE_SPACES in groups else 1.0
        spans = zip(self.metrics, rates, ends, strict=True)
        return scale * float(sum(line["updates"] * (first + last) / 2 for line, first, last in spans))


def read_experiment(path: Path) -> Experiment:
    """Reads an experiment folder.

    Raises:
        UserError: it holds no score or no model.
    """
    folders = {_decoding(score.parent): score.parent for score in sorted(path.glob("decode_*_*/score.json"))}
    scores = {key: read_score_file(folder / "score.json") for key, folder in folders.items()}
    if not scores:
        raise UserError(f"{path} holds no decode_SPLIT_SEARCH/score.json; decode and score it first")
    metrics = read_metrics(path / "metrics.jsonl")
    return Experiment(path, load_recognizer(path / "averaged.safetensors"), metrics, scores, folders)


def _decoding(folder: Path) -> tuple[str, str]:
    """Split and search of a decoding, from its folder's name and the split in ``decode.json``."""
    name, settings = folder.name.removeprefix("decode_"), folder / "decode.json"
    split = read_values(settings, "asrkit decode --force").get("split") if settings.is_file() else None
    if isinstance(split, str) and name.startswith(f"{split}_"):
        return split, name.removeprefix(f"{split}_")
    split, search = name.split("_", 1)  # of an earlier version
    return split, search


def _subsets(split: str, values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{split} {name}", part) for name, part in values.get("subsets", {}).items()]


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(COLUMNS), *lines[1:]])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line truncated by a kill, or one by another program, is left out."""
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            line = json.loads(text)
            require_numbers(*(line[name] for name in ("epoch", "updates", "seconds", "lr")))
            lines.append(line)
        except (ValueError, TypeError, KeyError):
            print(f"{path}:{number}: not the metrics of an epoch, left out", file=sys.stderr)
    return lines
