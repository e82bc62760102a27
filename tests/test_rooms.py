"""The floors of the house: a room imports only from the rooms below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = [
    "text",
    "features",
    "losses",
    "data",
    "corpora",
    "models",
    "quantization",
    "bundle",
    "decoding",
    "scoring",
    "distributed",
    "training",
    "export",
    "studies",
    "retrieval",
    "cli",
]
AUXILIARY = ["studies", "retrieval"]
"""They use ``data``, ``distributed`` and each other, and no other room of speech."""


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("asrkit.")}


def room_of(module: str) -> str | None:
    """The room of a module such as ``asrkit.data.folder``; None for the ground floor."""
    name = module.split(".")[1]
    return name if (ROOT / "asrkit" / name).is_dir() else None


def test_no_room_imports_from_a_higher_floor() -> None:
    wrong = []
    for path in sorted((ROOT / "asrkit").rglob("*.py")):
        parts = path.relative_to(ROOT / "asrkit").parts
        if parts in (("__main__.py",), ("__init__.py",), ("api.py",)):
            continue
        room = parts[0] if len(parts) > 1 else None
        assert room is None or room in ROOMS, f"{room} is no room of the house"
        for name in imported_modules(path):
            other = room_of(name)
            allowed = other is None or (room is not None and ROOMS.index(other) <= ROOMS.index(room))
            if room in AUXILIARY:
                allowed = other in (None, "data", "distributed", *AUXILIARY)
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("room", ["decoding", "export", "scoring", "bundle"])
def test_nothing_that_uses_a_model_imports_training(room: str) -> None:
    paths = [*(ROOT / "asrkit" / room).rglob("*.py"), ROOT / "asrkit/cli/decode.py", ROOT / "asrkit/cli/export.py"]
    assert not [(path, name) for path in paths for name in imported_modules(path) if room_of(name) == "training"]


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("prepare", ["asrkit.training", "asrkit.losses", "asrkit.models", "asrkit.decoding"]),
        ("score", ["asrkit.training", "asrkit.losses", "torch"]),
        ("decode", ["asrkit.training"]),
        ("transcribe", ["asrkit.training"]),
    ],
)
def test_a_command_imports_what_it_needs(command: str, absent: list[str]) -> None:
    code = (
        "import sys; from asrkit.cli.main import cli; cli.get_command(None, sys.argv[1]);"
        "print([name for name in sys.argv[2:] if any(m == name or m.startswith(name + '.') for m in sys.modules)])"
    )
    run = subprocess.run([sys.executable, "-c", code, command, *absent], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_the_package_imports_nothing_until_it_is_used() -> None:
    code = (
        "import sys, asrkit; print('torch' in sys.modules); from asrkit import Recognizer; print(Recognizer.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\nRecognizer\n"


def test_files_are_short() -> None:
    long = {path: len(path.read_text().splitlines()) for path in (ROOT / "asrkit").rglob("*.py")}
    assert not {str(path): lines for path, lines in long.items() if lines > 400}
