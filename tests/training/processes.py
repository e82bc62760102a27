"""The processes of a launcher."""

from __future__ import annotations

import time
from pathlib import Path


def children_in_training(pid: int, number: int) -> list[int]:
    """Process ids of a launcher's children, by rank, once all are there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        listed = Path("/proc", str(pid), "task", str(pid), "children").read_text().split()
        ranks = {rank: int(child) for child in listed if (rank := _rank(int(child))) is not None}
        if len(ranks) == number:
            return [ranks[rank] for rank in range(number)]
        time.sleep(0.2)
    raise AssertionError("the launcher has no children")


def _rank(pid: int) -> int | None:
    try:
        environment = Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return None
    for word in environment.split(b"\0"):
        if word.startswith(b"RANK="):
            return int(word.removeprefix(b"RANK="))
    return None
