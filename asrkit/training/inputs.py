"""The inputs of an experiment folder's training, so that it is only resumed with the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from safetensors import SafetensorError, safe_open

from asrkit.config import Config
from asrkit.config_files import config_to_dict, config_to_yaml
from asrkit.console import log
from asrkit.errors import UserError
from asrkit.files import exclusive, write_json, write_text
from asrkit.records import INPUTS, Record, digest, flat
from asrkit.settings import is_read, settings_of
from asrkit.training.checkpoint import holds_training

CHANGEABLE = (
    "train.num_epochs",
    "train.num_workers",
    "train.average_epochs",
    "train.early_stop_epochs",
    "train.device",
    "train.checkpoint_every_steps",
    "train.keep_every_epochs",
    "train.dev_wer_every_epochs",
    "train.accumulation_steps",
    "train.heartbeat_s",
    "train.watch_every",
    "train.init_from",  # compared by content
)
"""Settings that may change between the runs of one experiment, besides ``decode``."""
END = ("train.num_epochs", "train.early_stop_epochs", "train.average_epochs")
"""Of these, those that decide when training ends and what it writes."""
GROUPS = "train.optimizer.groups."
RESUME = "a larger train.num_epochs resumes from the last checkpoint, another --exp-dir trains from the start"
"""What to do about a finished training."""


def start_training(
    config: Config, exp_dir: Path, model: str, inputs: Mapping[str, Any] | None = None, command: str = "train"
) -> None:
    """Writes a training's configuration and record, after comparing them with any existing ones.

    A training that saved nothing is ignored, so rejected settings can be changed.

    Args:
        config: the experiment.
        exp_dir: its folder.
        model: file name of the final model.
        inputs: what it depends on besides its settings.
        command: the subcommand that trains.

    Raises:
        UserError: the folder's training has other inputs; names the first.
    """
    record = _record(config, exp_dir, inputs or {}, command)
    _require_same(record, exp_dir, model)
    record.keep()
    write_text(exp_dir / "config.yaml", config_to_yaml(config, command))


def is_finished(
    config: Config, exp_dir: Path, model: str, inputs: Mapping[str, Any] | None = None, command: str = "train"
) -> bool:
    """Whether a folder's training has written its model, and would end the same now or cannot be resumed.

    Raises:
        UserError: its inputs differ (names the first), or the model cannot be read.
    """
    if not (exp_dir / model).is_file():
        return False
    _require_same(_record(config, exp_dir, inputs or {}, command), exp_dir, model)
    can_resume = any((exp_dir / "checkpoints").glob("epoch-*.state.pt"))
    before, now = _settings_in(exp_dir / model), flat(config_to_dict(config))
    return not can_resume or all(before.get(key) == now[key] for key in END)


def put_aside(exp_dir: Path) -> None:
    """Renames an experiment's folder, so that another can take its place.

    Raises:
        UserError: another process is working in it, or it cannot be renamed.
    """
    exp_dir, number = exp_dir.resolve(), 1
    while (target := exp_dir.with_name(f"{exp_dir.name}.{number}")).exists():
        number += 1
    try:
        with exclusive(exp_dir):
            exp_dir.rename(target)
    except OSError as error:
        raise UserError(f"cannot move {exp_dir} to {target}: {error.strerror}") from error
    log(f"moved {exp_dir} to {target}")


def _record(config: Config, exp_dir: Path, inputs: Mapping[str, Any], command: str) -> Record:
    initial = {"digest of train.init_from": digest(Path(config.train.init_from)) if config.train.init_from else ""}
    defaults = _fixed(config_to_dict(Config())) | {"digest of train.init_from": ""}
    values = {item.key: item.value for item in settings_of(config)} | {"command": command}
    unread = {item.key for item in settings_of(config) if not is_read(item, values)}
    settings = {key: value for key, value in _fixed(config_to_dict(config)).items() if key not in unread}
    if config.bl_just.loss != "none":  # which epochs explore, join and fine-tune depends on it
        settings["train.num_epochs"] = config.train.num_epochs
    return Record(exp_dir / INPUTS, settings | initial | dict(inputs), defaults)


def _require_same(record: Record, exp_dir: Path, model: str) -> None:
    if not holds_training(exp_dir):
        return
    if not record.path.is_file():  # a training of version 0.1
        before = _settings_in(exp_dir / model)
        if not before and (exp_dir / "config.yaml").is_file():
            before = flat(yaml.safe_load((exp_dir / "config.yaml").read_text(encoding="utf-8")))
        write_json(record.path, {key: value for key, value in before.items() if _is_fixed(key)})
    record.require_same("choose another --exp-dir or remove that folder")


def _settings_in(model: Path) -> dict[str, Any]:
    """The settings in a model file's header, by full name; empty if there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    if not model.is_file():
        return {}
    try:
        with safe_open(model, framework="pt") as file:
            header = cast(dict[str, str], file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{model} cannot be read ({error}); remove it to resume the training") from error
    return flat(json.loads(header.get("config", "{}")))


def _fixed(values: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: value for key, value in flat(values).items() if _is_fixed(key)}
    # As one value: a new or removed group is a difference too.
    groups = {key.removeprefix(GROUPS): named.pop(key) for key in sorted(named) if key.startswith(GROUPS)}
    return named | ({GROUPS.rstrip("."): json.dumps(groups)} if groups else {})


def _is_fixed(key: str) -> bool:
    return not key.startswith("decode.") and key not in CHANGEABLE
