"""``map`` over several processes on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from asrkit.errors import UserError


@contextmanager
def mapping(
    number: int, chunksize: int, start: str | None = None, prepare: Callable[[], object] | None = None
) -> Iterator[Callable[..., Iterator[Any]]]:
    """``map``, in ``number`` processes; in this one if 1.

    Args:
        number: of processes.
        chunksize: items that a process takes at once.
        start: how processes are started, as :mod:`multiprocessing` names it; its default if None.
        prepare: what each process does first.

    Raises:
        UserError: a process was killed.
    """
    if number == 1:
        yield map
        return
    with ProcessPoolExecutor(number, multiprocessing.get_context(start), initializer=prepare) as pool:
        try:
            yield partial(pool.map, chunksize=chunksize)
        except BrokenProcessPool as error:
            raise UserError("a process that read audio was ended, perhaps for memory; try --num-jobs 1") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # remaining work would only delay the message
            raise
