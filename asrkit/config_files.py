"""Experiments from YAML with ``include:`` and ``key=value`` overrides, checked before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asrkit.config import Config
from asrkit.errors import UserError
from asrkit.files import utf8_text

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"

CHOICES: dict[str, tuple[object, ...]] = {
    "features.normalization": ("none", "global", "speaker", "side"),
    "tokenizer.type": ("char", "unigram", "bpe"),
    "model.encoder.type": ("conformer", "dssformer", "blstm"),
    "model.encoder.subsampling": (1, 4, 8),
    "model.encoder.dss.init": ("linear", "hippo", "exp_random", "s4d_inv", "s4d_lin"),
    "model.encoder.dss.form": ("exp", "softmax"),
    "model.predictor.type": ("lstm", "stateless"),
    "model.joiner.combination": ("add", "multiply"),
    "loss.implementation": ("ours", "torchaudio", "k2"),
    "lm.type": ("lstm", "transformer"),
    "train.autocast": ("auto", "none", "bf16", "fp16"),
    "train.device": ("auto", "cpu", "cuda"),
    "train.schedule.type": ("warmup_hold_anneal", "one_cycle"),
    "decode.method": ("greedy", "beam", "modified_beam"),
}


INF = float("inf")
RANGES: dict[str, tuple[float, float]] = {
    "probability": (0, 1), "fraction": (0, 1), "rate": (0, 1), "dropout": (0, 0.99), "drop_connect": (0, 0.99),
    "seconds": (0.01, INF), "scale": (0, INF), "expand_beam": (0, INF),
    "decode_beam": (1, INF), "nbest": (1, INF),
    "margin": (0, INF), "max_symbols": (0, INF), "labels_per_frame": (0.01, INF), "num_hypotheses": (1, INF),
    "num_epochs": (1, INF), "num_layers": (1, INF), "stacking": (1, INF),
    "num_buckets": (1, INF), "accumulation_steps": (1, INF), "average_epochs": (1, INF),
    "num_workers": (0, INF), "every_steps": (1, INF), "wer_every_epochs": (1, INF), "num_heads": (1, INF),
    "d_model": (1, INF), "channels": (1, INF), "hidden_dim": (1, INF), "cells": (1, INF), "num_mel_bins": (4, INF),
    "lr": (0, INF), "weight_decay": (0, INF), "factors": (0.1, 10),
}  # fmt: skip
"""Least and greatest value of the settings whose key, with ``_`` between its parts, ends so."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads an experiment's YAML, merges what it includes below it, then the ``key=value`` overrides.

    ``include:`` is a list of files, relative to the including file or to the shared ``conf/``.

    Raises:
        UserError: missing file, unknown key (the nearest right one is named), wrong type or value.
    """
    return config_from_dict(*read_values(path, overrides))


def read_values(path: Path | None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """What a YAML with its ``include:`` and the ``key=value`` overrides say, not yet checked, and where it stands.

    Raises:
        UserError: missing file, or text that is not of this form.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        merged = _read_with_includes(Path(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"override '{override}' is not of the form key=value, such as train.num_epochs=40")
        try:
            leaf = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"override '{override}': the value is not valid YAML") from error
        _set(merged, key.split("."), leaf, override)
    return merged, str(path) if path else "command line"


Settings = TypeVar("Settings")


def typed(values: dict[str, Any], schema: type[Settings], where: str) -> Settings:
    """Values as a dataclass.

    Raises:
        UserError: unknown key (the nearest right one is named) or wrong type.
    """
    _check_keys(values, schema, "", where)
    try:
        return cast(Settings, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        reason = str(getattr(error, "msg", None) or error).splitlines()[0]
        raise UserError(f"{where}: key '{key}': {reason}") from error


def check_choices(values: dict[str, Any], choices: dict[str, tuple[object, ...]], where: str) -> None:
    """Refuses values outside the choices of their keys.

    Args:
        values: by full key, as :func:`flat` gives them.
        choices: what a key, or a key's last parts after ``*.``, may be.
        where: they stand.
    """
    for key, value in values.items():
        for name, allowed in choices.items():
            if (key == name or (name.startswith("*.") and key.endswith(name[1:]))) and value not in allowed:
                raise UserError(f"{where}: {key} is '{value}'; choose one of {', '.join(map(str, allowed))}")


def config_from_dict(values: dict[str, Any], where: str) -> Config:
    """Checks ``values`` against the dataclasses and returns the typed experiment.

    Raises:
        UserError: unknown key, wrong type, or a value outside a setting's choices.
    """
    config = typed(values, Config, where)
    settings = flat(config_to_dict(config))
    check_choices(settings, CHOICES, where)
    for key, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int | float) and not isinstance(item, bool):
                _check_range(key, item, where)
    return config


def _check_range(key: str, value: float, where: str) -> None:
    for ending, (least, greatest) in RANGES.items():
        if f"_{key.replace('.', '_')}".endswith(f"_{ending}") and not least <= value <= greatest:
            span = f"{least:g} or more" if greatest == INF else f"between {least:g} and {greatest:g}"
            raise UserError(f"{where}: {key} is {value:g}; it must be {span}")


def config_to_dict(config: Config) -> dict[str, Any]:
    """The experiment as plain dictionaries, for YAML and for model files."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))


def config_to_yaml(config: Config) -> str:
    """The experiment as YAML that :func:`load_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _read_with_includes(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path} includes itself: {' -> '.join(map(str, seen))}")
    try:
        values = yaml.safe_load(utf8_text(path)) or {}
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = f" line {line + 1}" if line is not None else ""
        raise UserError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: the top level must be a mapping of keys, not {type(values).__name__}")
    merged: dict[str, Any] = {}
    for name in values.pop("include", None) or []:
        beside, shared = path.parent / name, CONF_DIR / name
        included = beside if beside.exists() else shared
        if not included.exists():
            raise UserError(f"{path}: include: '{name}' is neither at {beside} nor at {shared}")
        _merge(merged, _read_with_includes(included, (*seen, path.resolve())))
    _merge(merged, values)
    return merged


def _merge(base: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _set(values: dict[str, Any], keys: list[str], leaf: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"override '{override}': '{key}' is a single value, it has no keys below it")
    values[keys[-1]] = leaf


def _check_keys(values: dict[str, Any], schema: type, prefix: str, where: str) -> None:
    known = {item.name: item for item in fields(schema)}
    for key, value in values.items():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.0)
            raise UserError(
                f"{where}: unknown key '{prefix}{key}'; did you mean '{prefix}{nearest[0]}'? "
                f"(keys here: {', '.join(known)})"
            )
        default = known[key].default_factory
        if isinstance(default, type) and is_dataclass(default):
            if not isinstance(value, dict):
                raise UserError(f"{where}: '{prefix}{key}' must be a mapping, not {value!r}")
            _check_keys(value, default, f"{prefix}{key}.", where)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """An experiment's values by their full keys, such as ``train.num_epochs``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
