"""Starts the processes of a training on this machine. (Several machines: torchrun.)"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

POLL_S = 0.2
TAIL_LINES = 20
PR_SET_PDEATHSIG = 1


def launch(processes: int, command: Sequence[str], log_dir: Path) -> int:
    """Runs ``python -m asrkit`` with ``command`` in several processes and waits for all.

    The first process has this one's terminal; what the others print goes to ``rank-K.log`` in ``log_dir``.
    Signals are passed on, so that all save and end together. When one process fails, the others are ended.

    Args:
        processes: how many.
        command: the subcommand and its arguments.
        log_dir: a folder for the logs of all but the first.

    Returns:
        The exit code of the process that failed first, or 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    children: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as logs:
        for rank in range(processes):
            environment = {"OMP_NUM_THREADS": threads} | os.environ | shared
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = logs.enter_context(open(_log_path(log_dir, rank), "wb")) if rank else None
            arguments = [sys.executable, "-m", "asrkit", *command]
            children.append(
                subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, preexec_fn=end_with_parent)
            )

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    return _wait(children, log_dir)


def end_with_parent() -> None:
    """In a new process: asks the system for SIGTERM when the launcher is no more (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(children: list[subprocess.Popen[bytes]], log_dir: Path) -> int:
    running = dict(enumerate(children))
    while running:
        time.sleep(POLL_S)
        for rank, child in list(running.items()):
            code = child.poll()
            if code is None:
                continue
            del running[rank]
            if code:
                _end(list(running.values()))
                if code < 0:
                    name = signal.Signals(-code).name
                    print(
                        f"asrkit: process {rank} of {len(children)} was ended by {name}"
                        f"{', perhaps for memory' if name == 'SIGKILL' else ''}; run the same command to resume",
                        file=sys.stderr,
                    )
                    return 2
                if rank and children[0].returncode < 0:  # the first process could not say what went wrong
                    tail = _log_path(log_dir, rank).read_text(errors="replace").splitlines()[-TAIL_LINES:]
                    print(f"asrkit: process {rank} failed:", *tail, sep="\n", file=sys.stderr)
                return code
    return 0


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """Gives the others time to save, for they have the same error or signal, and then ends them."""
    deadline = time.monotonic() + 5.0
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _log_path(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank-{rank}.log"
