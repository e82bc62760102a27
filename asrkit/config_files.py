"""Reading experiments from YAML with ``include:`` and ``key=value`` overrides, and checking them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asrkit.config import Config
from asrkit.errors import UserError, shown
from asrkit.files import utf8_text
from asrkit.records import flat
from asrkit.settings import check_read, check_values, is_read, settings_of

_PACKAGE = Path(__file__).resolve().parent
CONF_DIR = next((path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir()), _PACKAGE / "conf")
"""The shared YAML: inside the package if installed from a wheel, else at the top of the repository."""


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    command: str = "train",
    reads: Sequence[str] | None = None,
    final: Mapping[str, object] | None = None,
) -> Config:
    """Reads an experiment's YAML. It overrides the files that it includes; ``key=value`` overrides both.

    ``include:`` is a list of files, relative to the including file or to the shared ``conf/``.

    Args:
        path: the YAML; None for the defaults.
        overrides: from the command line.
        command: the subcommand, which some settings depend on.
        reads: the top-level sections that it reads, in which unused settings are refused; None for all.
        final: settings by full name that override all others, such as options of the subcommand.

    Raises:
        UserError: missing file, unknown key (with the nearest valid one), wrong type or value, or a setting that the
            chosen parts do not read.
    """
    layers = _layers(path, overrides)
    if final:
        layers.append(_nested(final))
    where = str(path) if path else "command line"
    merged: dict[str, Any] = {}
    given: dict[str, int] = {}
    for number, layer in enumerate(layers, 1):
        _merge(merged, layer)
        if set(layer) >= OF_VERSION_1:  # a complete configuration may contain settings that are not read
            number = 0
        given |= dict.fromkeys(flat(layer), number)
    config = config_from_dict(merged, where)
    sections = SECTIONS if reads is None else set(reads)
    check_read(config, given, {"command": command}, sections)
    return config


def read_values(path: Path | None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The unchecked values of a YAML with its ``include:`` and the ``key=value`` overrides, and their source.

    Raises:
        UserError: missing file, or invalid YAML or overrides.
    """
    merged: dict[str, Any] = {}
    for layer in _layers(path, overrides):
        _merge(merged, layer)
    return merged, str(path) if path else "command line"


def _layers(path: Path | None, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Nested values, the lowest layer first: included files, the file, the command line."""
    layers = [] if path is None else _read_with_includes(Path(path))
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"override '{override}' is not of the form key=value, such as train.num_epochs=40")
        try:
            leaf = _parsed(value)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise UserError(f"override '{shown(override)}': the value is not valid YAML") from error
        _set(given, key.split("."), leaf, override)
    return [*layers, given]


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        _set(nested, key.split("."), value, f"{key}={value}")
    return nested


MOST_NODES, MOST_DEPTH, MOST_BYTES = 20_000, 30, 1 << 20
"""Limits of a configuration."""
SECTIONS = {item.name for item in fields(Config)}
OF_VERSION_1 = SECTIONS - {"rewrites", "quantization", "bl_just"}
Settings = TypeVar("Settings")


def typed(values: dict[str, Any], schema: type[Settings], where: str) -> Settings:
    """Values as a dataclass.

    Raises:
        UserError: unknown key (with the nearest valid one) or wrong type.
    """
    _check_keys(values, schema, "", where)
    try:
        return cast(Settings, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values)))
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError, KeyError) as error:
        key = getattr(error, "full_key", None) or "?"
        reason = str(getattr(error, "msg", None) or error).splitlines()[0]
        raise UserError(f"{where}: key '{key}': {reason}") from error


def config_from_dict(values: dict[str, Any], where: str) -> Config:
    """Checks ``values`` against the dataclasses and returns the typed experiment.

    Raises:
        UserError: unknown key, wrong type, or a value outside a setting's choices or range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: the configuration must be a mapping of keys, not {type(values).__name__}")
    try:
        _require_small(values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    config = typed(values, Config, where)
    check_values(config, where)
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """The experiment as plain dictionaries, for YAML and for model files."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))


def config_to_yaml(config: Config, command: str = "train") -> str:
    """The experiment as YAML for :func:`load_config`, without unused settings."""
    values = config_to_dict(config)
    known = {item.key: item.value for item in settings_of(config)} | {"command": command}
    for item in settings_of(config):
        if not is_read(item, known):
            *sections, name = item.key.split(".")
            part = values
            for section in sections:
                part = part[section]
            del part[name]
    result: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return result


def _read_with_includes(path: Path, seen: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The values of a file and of those that it includes, the lowest layer first."""
    if path.resolve() in seen:
        raise UserError(f"{path} includes itself: {' -> '.join(map(str, seen))}")
    try:
        values = _parsed(_text(path)) or {}
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not valid YAML: {reason}") from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        location = f" line {line + 1}" if line is not None else ""
        raise UserError(f"{path}{location}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: the top level must be a mapping of keys, not {type(values).__name__}")
    layers: list[dict[str, Any]] = []
    included_files = values.pop("include", None) or []
    if not isinstance(included_files, list) or not all(isinstance(name, str) for name in included_files):
        raise UserError(f"{path}: include: must be a list of files, not {included_files!r}")
    for name in included_files:
        local, shared = path.parent / name, CONF_DIR / name
        included = local if local.exists() else shared
        if not included.exists():
            raise UserError(f"{path}: include: '{name}' is neither at {local} nor at {shared}")
        layers += _read_with_includes(included, (*seen, path.resolve()))
    return [*layers, values]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Plain values; a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping without repeated keys."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is there twice", key_node.start_mark)
            seen.append(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _parsed(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML.
        RecursionError: it is nested too deep.
        ValueError: its aliases make it too large, or a value would have to be evaluated.
    """
    value = yaml.load(text, _Loader)  # a safe loader
    _require_small(value)
    return value


def _require_small(value: Any) -> None:
    """Rejects values that are too large when their aliases are expanded."""
    number, pending = 0, [(value, 0)]
    while pending:
        item, depth = pending.pop()
        number += 1
        if number > MOST_NODES or depth > MOST_DEPTH:
            raise ValueError(f"it has more than {MOST_NODES} values, or {MOST_DEPTH} levels, once aliases are resolved")
        if isinstance(item, dict):
            pending += [(part, depth + 1) for part in (*item.keys(), *item.values())]
        elif isinstance(item, list | tuple | set):
            pending += [(part, depth + 1) for part in item]
        elif isinstance(item, str) and "${" in item:
            raise ValueError(f"'{shown(item[:80])}' would have to be evaluated; write the value itself")


def _text(path: Path) -> str:
    if not path.is_file():
        kind = "there is no such file" if not path.exists() else "it is no regular file"
        raise UserError(f"cannot read the configuration {path}: {kind}")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"cannot read the configuration {path}: it has more than {MOST_BYTES} bytes")
    return utf8_text(path)


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
            nearest = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.5)
            guess = f" did you mean '{prefix}{nearest[0]}'?" if nearest else ""
            raise UserError(f"{where}: unknown key '{prefix}{key}';{guess} (keys here: {', '.join(known)})")
        default = known[key].default_factory
        if isinstance(default, type) and is_dataclass(default):
            if not isinstance(value, dict):
                raise UserError(f"{where}: '{prefix}{key}' must be a mapping, not {value!r}")
            _check_keys(value, default, f"{prefix}{key}.", where)
