"""From a data folder and a configuration to a trained model in an experiment folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from asrkit.config import Config
from asrkit.config_files import config_to_dict, config_to_yaml, flat
from asrkit.data.feature_store import features_path, load_statistics, read_cuts
from asrkit.errors import UserError
from asrkit.files import write_text
from asrkit.models.transducer import num_parameters
from asrkit.text.tokenizer import Tokenizer, tokenizer_from_dict
from asrkit.training.build import build_model, build_pipeline, build_smoothing
from asrkit.training.checkpoint import ModelBundle, holds_training, read_tensors
from asrkit.training.parallel import process_group
from asrkit.training.progress import log
from asrkit.training.trainer import Hooks, Trainer, TrainingData

CHANGEABLE = (
    "train.num_epochs", "train.num_workers", "train.average_epochs", "train.early_stop_epochs", "train.device",
    "train.checkpoint_every_steps", "train.keep_every_epochs", "train.dev_wer_every_epochs",
    "train.accumulation_steps",
)  # fmt: skip
"""Settings that may change between the runs of one experiment, besides ``decode``."""

END = ("num_epochs", "early_stop_epochs", "average_epochs")
"""Of these, those of ``train`` that say when a training is done and what it leaves."""


def tokenizer_path(data_dir: Path) -> Path:
    """Where the tokenizer of a recipe lies."""
    return data_dir / "tokenizer.json"


def load_tokenizer(data_dir: Path) -> Tokenizer:
    """The tokenizer of a recipe.

    Raises:
        UserError: it has not been made yet, or cannot be read.
    """
    path = tokenizer_path(data_dir)
    if not path.is_file():
        raise UserError(f"{path} is missing; run asrkit tokenizer first")
    try:
        return tokenizer_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run asrkit tokenizer again") from error


def run_training(config: Config, data_dir: Path, exp_dir: Path, hooks: Hooks | None = None) -> None:
    """Trains, or goes on training, in ``exp_dir``; under ``torchrun``, with all its processes.

    Raises:
        UserError: missing or bad data, or an experiment folder of another configuration.
        asrkit.training.stopping.Stopped: on Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    with process_group(config.train.device) as process:
        if process.is_main:
            remember_config(config, exp_dir)
        tokenizer = load_tokenizer(data_dir)
        kind = tokenizer.to_dict()["type"]
        if kind != config.tokenizer.type:
            raise UserError(
                f"tokenizer.type is {config.tokenizer.type} but {tokenizer_path(data_dir)} is of type {kind}; "
                "run asrkit tokenizer --force or choose another --data-dir"
            )
        statistics = load_statistics(data_dir)
        torch.manual_seed(config.train.seed)
        try:
            model = build_model(config, tokenizer.vocab_size)
        except ValueError as error:
            raise UserError(f"the model's settings do not fit: {error}") from error
        bundle = ModelBundle(model, config, tokenizer, statistics)
        train = list(read_cuts(features_path(data_dir, "train")))
        data = TrainingData(
            train=train,
            dev=list(read_cuts(features_path(data_dir, "dev"))),
            train_pipeline=build_pipeline(config, statistics, train),
            dev_pipeline=build_pipeline(config, statistics),
            smoothing=build_smoothing(config, tokenizer, train),
        )
        trainer = Trainer(bundle, data, exp_dir, process, hooks)
        if process.is_main:
            hours = sum(cut.duration for cut in data.train) / 3600
            log(
                f"{num_parameters(bundle.model):,} parameters, {tokenizer.vocab_size} symbols, {len(data.train)} "
                f"utterances ({hours:.2f} h), {process.world_size} process(es) on {process.device.type}, "
                f"autocast {trainer.autocast}, augmentations: {', '.join(data.augmentation_names)} "
                f"{config.features.speed_factors}"
            )
        trainer.run()


def remember_config(config: Config, exp_dir: Path) -> None:
    """Writes the merged configuration into the folder, after comparing it with that of a training that is there.

    One that has saved nothing is none: what an error refused can be changed.

    Raises:
        UserError: the training has other settings; the first is named.
    """
    path = exp_dir / "config.yaml"
    if path.is_file() and holds_training(exp_dir):
        _require_same(yaml.safe_load(path.read_text(encoding="utf-8")), config, exp_dir)
    write_text(path, config_to_yaml(config))


def is_finished(config: Config, exp_dir: Path, name: str) -> bool:
    """Whether a folder's training has left its model ``name``, with the same end as now, or nothing to go on from.

    Raises:
        UserError: it has, with other settings; the first is named.
    """
    if not (exp_dir / name).is_file():
        return False
    before = json.loads(read_tensors(exp_dir / name)[0]["config"])
    _require_same(before, config, exp_dir)
    can_go_on = any((exp_dir / "checkpoints").glob("epoch-*.state.pt"))
    same_end = all(getattr(config.train, key) == before["train"][key] for key in END)
    return not can_go_on or same_end


def _require_same(before: dict[str, Any], config: Config, exp_dir: Path) -> None:
    # A setting that there was not yet had what is its default now.
    was, now = flat(config_to_dict(Config())) | flat(before), flat(config_to_dict(config))
    for key in sorted(now):
        if key.startswith("decode.") or key in CHANGEABLE:
            continue
        if was[key] != now[key]:
            raise UserError(
                f"{exp_dir} holds a training with {key}={was[key]}, now it is {now[key]}; "
                "choose another --exp-dir or remove that folder"
            )
