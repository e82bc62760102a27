"""Starts the processes of a training or a decoding on this machine. (Several machines: tools/launch.)"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch.distributed as dist

from asrkit.distributed.join import AGENT_STORE, ATTEMPT, JOIN_AGAIN, shared_by_learners
from asrkit.distributed.membership import position, tell_gone

POLL_S = 0.2
TAIL_LINES = 20
PR_SET_PDEATHSIG = 1
ENDING_S, SAVING_S = 5.0, 300.0
"""Time for the others to end after one has, and to write a checkpoint after a signal."""
MOST_RESTARTS = 10
"""Restarts of one process."""


@dataclass
class Processes:
    """Processes that work together, by rank."""

    command: Sequence[str]
    environment: dict[str, str]
    log_dir: Path
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    attempt: int = 0
    """How often all have been restarted."""

    def start(self, rank: int) -> None:
        """Starts or restarts a process."""
        environment = self.environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), ATTEMPT: str(self.attempt)}
        arguments = [sys.executable, *self.command]
        restarted = rank in self.starts
        with contextlib.ExitStack() as logs:
            log = logs.enter_context(open(_log_path(self.log_dir, rank), "ab" if restarted else "wb")) if rank else None
            self.running[rank] = subprocess.Popen(
                arguments, env=environment, stdout=log, stderr=log, preexec_fn=end_with_parent
            )
        self.starts[rank] = self.starts.get(rank, 0) + 1


def launch(processes: int, command: Sequence[str], log_dir: Path, restart: bool = False) -> int:
    """Runs Python with ``command`` in several processes and waits for all.

    The first process has this one's terminal; what the others print goes to ``rank-K.log`` in ``log_dir``.
    Signals are passed on, so that all save and end together. When one process fails, the others are ended.

    Args:
        processes: how many.
        command: Python's arguments, such as ``-m asrkit train ...``.
        log_dir: a folder for the logs of all but the first.
        restart: a process that is killed is restarted and rejoins the others, which do not need it.

    Returns:
        The exit code of the process that failed first, or 0.
    """
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {"OMP_NUM_THREADS": threads} | os.environ | {"WORLD_SIZE": str(processes)}
    store = None
    if restart:  # the shared store must outlive every process
        store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        environment[AGENT_STORE] = "True"
    port = store.port if store else _free_port()
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = Processes(command, environment, log_dir)
    signalled = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        signalled = True
        for child in children.running.values():
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    for rank in range(processes):
        children.start(rank)

    def restart_lost(rank: int, code: int) -> bool:
        """Restarts a process that ended; False if all have to end."""
        if store is None or signalled or (code > 0 and code != JOIN_AGAIN):
            return False
        shared = shared_by_learners(store, str(children.attempt))
        if children.starts[rank] > MOST_RESTARTS:
            print(f"asrkit: process {rank} was started {MOST_RESTARTS + 1} times and is given up", file=sys.stderr)
            if rank:
                tell_gone(shared, rank)
            return rank > 0
        event = f"asrkit: process {rank} of {processes} {_ended_by(code)}"
        if rank == 0 and position(shared) is None:  # the others wait for it to close a meeting
            print(f"{event} between epochs; all start again from the last checkpoint", file=sys.stderr, flush=True)
            _end(list(children.running.values()), 0.0)
            children.running.clear()
            children.attempt += 1
            for other in range(processes):
                children.start(other)
            return True
        tell_gone(shared, rank)
        print(f"{event}; it starts again and joins the others", file=sys.stderr, flush=True)
        children.start(rank)
        return True

    return _wait(children, processes, restart_lost, lambda: signalled)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end_with_parent() -> None:
    """In a new process: requests SIGTERM for when the launcher ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(
    children: Processes, processes: int, restart_lost: Callable[[int, int], bool], signalled: Callable[[], bool]
) -> int:
    while children.running:
        time.sleep(POLL_S)
        for rank, child in list(children.running.items()):
            if children.running.get(rank) is not child:  # all have been restarted
                continue
            code = child.poll()
            if code is None:
                continue
            del children.running[rank]
            if not code or restart_lost(rank, code):
                continue
            first = children.running.get(0)
            _end(list(children.running.values()), SAVING_S if signalled() else ENDING_S)
            if code < 0:
                print(
                    f"asrkit: process {rank} of {processes} {_ended_by(code)}; run the same command to resume",
                    file=sys.stderr,
                )
                return 2
            if rank and first is not None and first.returncode < 0:  # the first one could not say what went wrong
                tail = _log_path(children.log_dir, rank).read_text(errors="replace").splitlines()[-TAIL_LINES:]
                print(f"asrkit: process {rank} failed:", *tail, sep="\n", file=sys.stderr)
            return code
    return 0


def _ended_by(code: int) -> str:
    """How a process with this exit code ended."""
    if code >= 0:
        return "was lost to the others"
    name = signal.Signals(-code).name
    return f"was ended by {name}{', perhaps for memory' if name == 'SIGKILL' else ''}"


def _end(children: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Gives processes time to end, since they may have the same error or signal, and then kills them."""
    deadline = time.monotonic() + seconds
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _log_path(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank-{rank}.log"
