"""Timing and memory of a function, the same way in every benchmark here. Needs torch alone."""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of each function; they take turns, so that a machine that slows down slows them all."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_in_new_process(make: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """:func:`peak_mib` of what ``make`` returns, in a process that has done nothing else, on one thread."""
    # Freed memory goes back at once, which only glibc's malloc can, so that the peak is that of what is in use.
    settings = {"LD_PRELOAD": "", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with patch.dict(os.environ, settings), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (make, arguments))


def _peak(make: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> float:
    import torch

    torch.set_num_threads(1)
    return peak_mib(make(*arguments))


def peak_mib(function: Callable[[], object]) -> float:
    """Peak resident memory of a call above what was resident before it (Linux), after one call to warm up."""
    function()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A line of this process's status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")
