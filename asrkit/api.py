"""The command line as functions: train, decode, score, load."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from asrkit.bundle.model_file import ModelBundle, load_recognizer
from asrkit.config_files import load_config
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import transcript
from asrkit.data.upstream import require_current
from asrkit.decoding.decode import decode_split
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.nbest import best_text
from asrkit.models.transducer import Transducer
from asrkit.scoring.report import summary
from asrkit.scoring.wer import score_pairs
from asrkit.training.inputs import is_finished
from asrkit.training.run import run_training, training_inputs
from asrkit.training.speech import MODEL

AnyPath = str | PathLike[str]


@dataclass(frozen=True)
class Decoding:
    """A decoded utterance."""

    id: str
    reference: str
    text: str
    """The best hypothesis; empty if there is none."""
    hypotheses: list[Hypothesis]
    """Best first."""


def load(path: AnyPath) -> ModelBundle[Transducer]:
    """A trained recognizer: modules, tokenizer, feature statistics and configuration.

    To transcribe audio files, use :class:`asrkit.Recognizer`.

    Args:
        path: a checkpoint, a final model or an exported one.

    Raises:
        asrkit.errors.UserError: it is not a recognizer, or cannot be read.
    """
    return load_recognizer(Path(path))


def train(config: AnyPath | None, data_dir: AnyPath, exp_dir: AnyPath, *overrides: str) -> Path:
    """Trains a recognizer in this process, or resumes its training; returns the final model's path.

    Args:
        config: the experiment's YAML; None for the defaults.
        data_dir: prepared data, with features and tokenizer.
        exp_dir: the experiment folder.
        overrides: ``key=value``, as on the command line.

    Raises:
        asrkit.errors.UserError: missing or bad data, or an experiment folder with another configuration.
    """
    settings = load_config(Path(config) if config is not None else None, overrides)
    folder, target = DataFolder(Path(data_dir)), Path(exp_dir)
    require_current(folder)
    if not is_finished(settings, target, MODEL, training_inputs(settings, folder)):
        run_training(settings, folder.path, target)
    return target / MODEL


def decode(
    model: AnyPath | ModelBundle[Transducer], data_dir: AnyPath, split: str = "test", *overrides: str
) -> list[Decoding]:
    """Decodes a split of prepared data, longest utterance first.

    Args:
        model: a recognizer or its file.
        data_dir: prepared data.
        split: name of the split.
        overrides: settings of ``decode``, such as ``decode.method=beam``.

    Raises:
        asrkit.errors.UserError: the data, the model or the settings cannot be used.
    """
    settings = load_config(None, overrides, reads=("decode",)).decode
    bundle = model if isinstance(model, ModelBundle) else load(model)
    folder = DataFolder(Path(data_dir))
    require_current(folder)
    return [
        Decoding(cut.id, transcript(cut), best_text(nbest, bundle.tokenizer), nbest)
        for cut, nbest in decode_split(bundle, folder, split, settings).lists
    ]


def score(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Error rates of (reference, hypothesis) texts, ignoring case: ``wer`` with its interval, ``cer`` and more."""
    return summary(score_pairs(pairs))
