"""The allocator that training restarts itself with, and the kernels that it keeps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from asrkit import cpu


def test_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(cpu, "find_allocator", lambda: "libtcmalloc_minimal.so.4")
    monkeypatch.setenv("LD_PRELOAD", "")
    cpu.restart_with_allocator(["-m", "asrkit", "train"])
    assert calls == [], "what the user set stays"
    monkeypatch.delenv("LD_PRELOAD")
    monkeypatch.setattr(sys, "platform", "linux")
    cpu.restart_with_allocator(["-m", "asrkit", "train"])
    ((program, arguments, environment),) = calls
    assert program == sys.executable
    assert arguments == [sys.executable, "-m", "asrkit", "train"]
    assert environment["LD_PRELOAD"] == "libtcmalloc_minimal.so.4"
    monkeypatch.setattr(cpu, "find_allocator", lambda: None)
    cpu.restart_with_allocator(["-m", "asrkit", "train"])
    assert len(calls) == 1


def test_the_name_is_one_that_the_loader_knows() -> None:
    found = cpu.find_allocator()
    assert found is None or ("tcmalloc" in found and ".so" in found)


COUNT_KERNELS = """
import torch
from asrkit.cpu import keep_kernels
keep_kernels()
for _ in range(2):
    for size in range(2, 42):
        torch.mm(torch.ones(size, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
def test_kernels_of_earlier_shapes_are_found_again() -> None:
    def compiled(**environment: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", COUNT_KERNELS],
            env=os.environ | {"ONEDNN_VERBOSE": "all"} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return sum("create:cache_miss" in line and "matmul" in line for line in run.stdout.splitlines())

    kept = compiled()
    if not kept:
        pytest.skip("this processor multiplies bf16 without oneDNN")
    assert kept <= 40
    assert compiled(ONEDNN_PRIMITIVE_CACHE_CAPACITY="10") == 2 * kept, "what the user set stays"
