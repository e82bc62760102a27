"""Damaged and hostile files are used or refused, never worse; ``tools/fuzz.py`` runs more of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("kind, number", [("models", 300), ("audio", 60), ("configs", 100), ("lists", 100)])
def test_hostile_files(kind: str, number: int) -> None:
    none = [f"--{other}=0" for other in ("models", "audio", "configs", "lists") if other != kind]
    command = [sys.executable, str(ROOT / "tools/fuzz.py"), f"--{kind}={number}", "--seed=7", *none]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{kind}: " in done.stdout and ", 0 failed" in done.stdout
