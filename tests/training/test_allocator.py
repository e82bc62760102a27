"""The allocator that training restarts itself with."""

from __future__ import annotations

import os
import sys

import pytest

from asrkit.training import allocator


def test_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", ["asrkit", "train", "--data-dir", "somewhere"])
    monkeypatch.setattr(allocator, "find_allocator", lambda: "libtcmalloc_minimal.so.4")
    monkeypatch.setenv("LD_PRELOAD", "")
    allocator.restart_with_allocator()
    assert calls == [], "what the user set stays"
    monkeypatch.delenv("LD_PRELOAD")
    monkeypatch.setattr(sys, "platform", "linux")
    allocator.restart_with_allocator()
    ((program, arguments, environment),) = calls
    assert program == sys.executable
    assert arguments == [sys.executable, "-m", "asrkit", "train", "--data-dir", "somewhere"]
    assert environment["LD_PRELOAD"] == "libtcmalloc_minimal.so.4"
    monkeypatch.setattr(allocator, "find_allocator", lambda: None)
    allocator.restart_with_allocator()
    assert len(calls) == 1


def test_the_name_is_one_that_the_loader_knows() -> None:
    found = allocator.find_allocator()
    assert found is None or ("tcmalloc" in found and ".so" in found)
