"""Declaring settings with default, meaning, choices, range and the conditions under which they are read.

:mod:`asrkit.config` declares the settings of an experiment with :func:`setting` and :func:`section`;
:mod:`asrkit.config_files` reads them from YAML and checks them with the functions here.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, cast

from asrkit.errors import UserError

Section = TypeVar("Section")
LARGEST = 1e12
"""Upper bound of a number whose rule states none."""


@dataclass(frozen=True)
class Rule:
    """The declaration of a setting, except its type and its default."""

    meaning: str = ""
    choices: tuple[object, ...] = ()
    least: float | None = None
    most: float | None = None
    only_with: str = ""
    """Conditions joined by `` and ``, such as ``model.encoder.type=conformer|dssformer`` or ``loss.prune_range>0``. A
    leading dot names a setting of the same section."""

    @property
    def span(self) -> str:
        """The range in words; empty if there is none."""
        if self.least is not None and self.most is not None:
            return f"between {self.least:g} and {self.most:g}"
        return "" if self.least is None else f"{self.least:g} or more"


@dataclass(frozen=True)
class Setting:
    """One setting of an experiment."""

    key: str
    """Full name."""
    rule: Rule
    conditions: tuple[str, ...]
    """The conditions under which it is read: its own and those of its sections."""
    value: Any


def setting(
    default: Any,
    meaning: str,
    *,
    choices: tuple[object, ...] = (),
    least: float | None = None,
    most: float | None = None,
    only_with: str = "",
) -> Any:
    """A dataclass field with its :class:`Rule`."""
    metadata = {"rule": Rule(meaning, choices, least, most, only_with)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type[Section], only_with: str = "") -> Section:
    """A dataclass field that holds the settings of ``kind``."""
    return field(default_factory=kind, metadata={"rule": Rule(only_with=only_with)})


def settings_of(values: object, prefix: str = "", conditions: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every setting of a dataclass instance, including those in dictionaries of dataclasses."""
    for item in fields(values):  # type: ignore[arg-type]  # any dataclass instance
        key, value = f"{prefix}{item.name}", getattr(values, item.name)
        rule = item.metadata.get("rule", Rule())
        named = (f"{prefix}{part[1:]}" if part.startswith(".") else part for part in rule.only_with.split(" and "))
        own = (*conditions, *filter(None, named))
        if is_dataclass(value):
            yield from settings_of(value, f"{key}.", own)
        elif isinstance(value, dict) and any(map(is_dataclass, value.values())):
            for name, part in value.items():
                yield from settings_of(part, f"{key}.{name}.", own)
        else:
            yield Setting(key, rule, own, value)


def check_values(values: object, where: str) -> None:
    """Refuses values outside their choices or ranges.

    Raises:
        UserError: names the first such value and the valid ones.
    """
    for item in settings_of(values):
        rule = item.rule
        if rule.choices and item.value not in rule.choices:
            allowed = ", ".join(map(str, rule.choices))
            raise UserError(f"{where}: {item.key} is '{item.value}'; choose one of {allowed}")
        for number in item.value if isinstance(item.value, list) else [item.value]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not math.isfinite(number):
                raise UserError(f"{where}: {item.key} is {number}, not a finite number")
            low, high = rule.least, LARGEST if rule.most is None else rule.most
            if (low is not None and number < low) or number > high:
                span = rule.span if rule.most is not None else f"{rule.span or 'a number'}, at most {LARGEST:g}"
                raise UserError(f"{where}: {item.key} is {number:g}; it must be {span}")


def is_read(item: Setting, known: Mapping[str, object]) -> bool:
    """Whether all conditions of a setting hold."""
    return all(holds(condition, known) for condition in item.conditions)


def check_read(values: object, layers: Mapping[str, int], facts: Mapping[str, object], sections: set[str]) -> None:
    """Refuses given settings that the chosen parts do not read.

    Settings with their default pass. So do settings of a lower layer (an included file) for a choice that a higher
    layer replaced.

    Args:
        values: the experiment.
        layers: number, from 1, of the layer that gives a setting, by full name; other settings are not checked.
        facts: values that conditions may name in addition to settings, such as ``command``.
        sections: the top-level sections that are read now.

    Raises:
        UserError: names the first such setting and the condition that does not hold.
    """
    settings = list(settings_of(values))
    known = {item.key: item.value for item in settings} | dict(facts)
    defaults = {item.key: item.value for item in settings_of(type(values)())}
    for item in settings:
        given = layers.get(item.key, 0) and item.value != defaults.get(item.key)
        if not given or item.key.split(".")[0] not in sections:
            continue
        for condition in item.conditions:
            chosen = _parts(condition)[0]
            if not holds(condition, known) and layers[item.key] >= layers.get(chosen, 0):
                raise UserError(
                    f"{item.key} is given, but it is read only with {condition.replace('|', ' or ')}; "
                    f"{chosen} is {known[chosen]}"
                )


def holds(condition: str, values: Mapping[str, object]) -> bool:
    """Whether ``key=a|b``, ``key!=a`` or ``key>number`` is true of ``values``."""
    key, operator, right = _parts(condition)
    if operator == ">":
        return float(cast(float, values[key])) > float(right)
    return (str(values[key]) in right.split("|")) == (operator == "=")


def _parts(condition: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"([\w.]+)(!=|[=>])(.+)", condition)
    if not match:
        raise ValueError(f"'{condition}' is not a condition of the form key=a|b, key!=a or key>number")
    return match[1], match[2], match[3]


def settings_page(values: object, title: str, introduction: str) -> str:
    """The settings of a dataclass as a Markdown page, a table for each section."""
    tables: dict[str, list[str]] = {}
    for item in settings_of(values):
        head, _, name = item.key.rpartition(".")
        rule = item.rule
        notes = [rule.meaning]
        if rule.choices:
            notes.append("One of " + ", ".join(f"`{choice}`" for choice in rule.choices) + ".")
        if rule.span:
            notes.append(f"{rule.span[0].upper()}{rule.span[1:]}.")
        if item.conditions:
            read_with = " and ".join(condition.replace("|", " or ") for condition in item.conditions)
            notes.append(f"Only with {read_with}.")
        tables.setdefault(head, []).append(f"| `{name}` | `{_shown(item.value)}` | {' '.join(filter(None, notes))} |")
    rows = [f"# {title}", "", introduction]
    for head, lines in tables.items():
        heading = f"`{head}`" if head else "Top level"
        rows += ["", f"## {heading}", "", "| setting | default | meaning |", "|---|---|---|", *lines]
    return "\n".join(rows) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)
