"""The floors of the house: a room imports only from the rooms below it."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT

ROOMS = [
    "text", "features", "losses", "models", "quantization", "data", "decoding", "scoring", "distributed", "training",
    "export", "corpora", "studies", "retrieval", "cli",
]  # fmt: skip
GROUND = {"errors", "figures", "files", "masking"}
"""Modules that every room may use."""
CONFIG_READERS = {"cli", "training"}


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("asrkit.")}


def test_no_room_imports_from_a_higher_floor() -> None:
    wrong = []
    for path in sorted((ROOT / "asrkit").rglob("*.py")):
        room = path.relative_to(ROOT / "asrkit").parts[0]
        if room not in ROOMS:
            continue
        for name in imported_modules(path):
            other = name.split(".")[1]
            allowed = (
                other in GROUND
                or (other in ("config", "config_files") and room in CONFIG_READERS)
                or (other in ROOMS and ROOMS.index(other) <= ROOMS.index(room))
            )
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []
