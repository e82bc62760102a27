"""Commands, options and settings that messages name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from asrkit.cli.main import cli
from asrkit.config import Config
from asrkit.settings import settings_of
from tests.conftest import ROOT

SUFFIXES = (".py", ".yaml", ".json", ".jsonl", ".gz", ".trn", ".md", ".npy", ".safetensors", ".zip", ".png")
PARAMETERS = {"model.predictor.layers", "model.encoder.blocks"}
"""Of a model, whose names are like those of settings."""


def texts() -> Iterator[tuple[Path, str]]:
    """String constants of the package, and the fixed parts of formatted ones."""
    for path in sorted((ROOT / "asrkit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value


def test_commands_and_their_options_exist() -> None:
    context = click.Context(cli)
    known = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name in cli.list_commands(context)
        if (command := cli.get_command(context, name))
    }
    advised = [
        (path.name, name, option)
        for path, text in texts()
        for name, options in re.findall(r"\basrkit ([a-z][a-z-]*)((?: --[a-z][a-z-]*)*)", text)
        for option in ("", *options.split())
        if name in known or options
    ]
    assert len(advised) > 40
    assert [row for row in advised if row[1] not in known or (row[2] and row[2] not in known[row[1]])] == []


def test_settings_exist() -> None:
    known = {setting.key for setting in settings_of(Config())}
    sections = {name.split(".")[0] for name in known}
    pattern = re.compile(r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)+)(?![\w/(-])")
    named = [(path.name, name) for path, text in texts() for name in pattern.findall(text)]
    named = [(path, name) for path, name in named if name.split(".")[0] in sections and not name.endswith(SUFFIXES)]
    assert len(named) > 60
    known |= PARAMETERS
    assert [row for row in named if not any(f"{one}.".startswith(f"{row[1]}.") for one in known)] == []
