"""``map`` over several processes: on this machine, or on a Dask cluster that shares its folders."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import Any

from asrkit.errors import UserError

CLUSTER: ContextVar[str] = ContextVar("CLUSTER", default="")
"""Address of a Dask scheduler; empty for processes on this machine."""
CHUNKS_PER_WORKER = 4
"""Submitted to a cluster at once."""
CONNECT_LIMIT_S = 10


@contextmanager
def mapping(
    number: int, chunksize: int, start: str | None = None, prepare: Callable[[], object] | None = None
) -> Iterator[Callable[..., Iterator[Any]]]:
    """``map`` in ``number`` processes (1: in this one), or on the cluster if there is one.

    Args:
        number: of processes.
        chunksize: items that a process takes at once.
        start: start method of :mod:`multiprocessing`; its default if None.
        prepare: called first in each process.

    Raises:
        UserError: a process was killed, or the cluster cannot be reached.
    """
    if address := CLUSTER.get():
        with _on_cluster(address, chunksize) as run:
            yield run
        return
    if number == 1:
        yield map
        return
    with ProcessPoolExecutor(number, multiprocessing.get_context(start), initializer=prepare) as pool:
        try:
            yield partial(pool.map, chunksize=chunksize)
        except BrokenProcessPool as error:
            raise UserError("a process that read audio was ended, perhaps for memory; try --num-jobs 1") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # remaining work would delay the message
            raise


@contextmanager
def _on_cluster(address: str, chunksize: int) -> Iterator[Callable[..., Iterator[Any]]]:
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise UserError("--cluster needs Dask: pip install asrkit[cluster]") from error
    try:
        client = Client(address, timeout=CONNECT_LIMIT_S)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"no Dask scheduler answers at {address}; start it with `dask scheduler`") from error

    def run(function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        items, pending = zip(*iterables, strict=False), deque[Any]()
        most = CHUNKS_PER_WORKER * max(1, len(client.scheduler_info()["workers"]))
        while chunk := list(islice(items, chunksize)):
            pending.append(client.submit(_each, function, chunk, pure=False))
            if len(pending) >= most:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()

    with client:
        try:
            yield run
        except KilledWorker as error:
            raise UserError(f"a worker of {address} was ended, perhaps for memory; give workers more of it") from error


def _each(function: Callable[..., Any], items: list[tuple[Any, ...]]) -> list[Any]:
    return [function(*item) for item in items]
