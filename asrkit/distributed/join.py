"""The learners of a training: ``train.parallel`` over the processes that were started."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from asrkit.config_training import TrainConfig
from asrkit.console import log
from asrkit.devices import choose_device
from asrkit.distributed.adpsgd import Adpsgd
from asrkit.distributed.dpsgd import Dpsgd
from asrkit.distributed.heartbeats import Heartbeats, end_without
from asrkit.distributed.learners import AllReduce, Learners
from asrkit.distributed.membership import START_LIMIT_S, LeftBehind, Membership
from asrkit.distributed.mixing import AVERAGE
from asrkit.distributed.sockets import host_that_reaches
from asrkit.errors import UserError

JOIN_AGAIN = 75
"""Exit code of a learner that has to be restarted."""
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""Set to ``True`` if the launcher of the processes holds the store that they share."""

ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
"""Set to the number of times that all processes have been restarted."""


def shared_by_learners(store: dist.Store, attempt: str) -> dist.Store:
    """The part of a store that belongs to an attempt."""
    return dist.PrefixStore(f"asrkit/{attempt}", store)


def is_asynchronous(config: TrainConfig) -> bool:
    """Whether no learner waits for another, so that one can be lost and rejoin."""
    return config.parallel == "adpsgd" and config.mixing != AVERAGE


@contextlib.contextmanager
def join_learners(config: TrainConfig) -> Iterator[Learners]:
    """Joins the processes that ``torchrun`` or ``--processes`` started (gloo on CPU, nccl on CUDA), or runs alone.

    Raises:
        UserError: another learner failed or is lost.
    """
    device, processes = choose_device(config.device), int(os.environ.get("WORLD_SIZE", 1))
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if config.super_learner > 1 and (processes == 1 or not is_asynchronous(config)):
        raise UserError(
            "train.super_learner needs several processes, train.parallel=adpsgd and a train.mixing other than average"
        )
    if processes > 1 and is_asynchronous(config):
        with _asynchronous(config, processes, device) as learners:
            yield learners
        return
    with join_processes(device, config.heartbeat_s) as all_reduce:
        if processes == 1 or config.parallel == "ddp":
            yield all_reduce
        else:
            kind, group = config.mixing, dist.new_group()
            yield Dpsgd(all_reduce.rank, processes, device, kind, config.seed, config.watch_every, group=group)


@contextlib.contextmanager
def join_processes(device: torch.device, limit_s: float) -> Iterator[AllReduce]:
    """Joins processes that wait for each other: none can continue without the others.

    Args:
        device: where this one computes.
        limit_s: all end when one has not been heard for this long.

    Raises:
        UserError: the connection to another was lost.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield AllReduce(device=device)
        return
    _take_own_card()
    store, rank, processes = next(dist.rendezvous("env://"))
    dist.init_process_group(_backend(device), store=store, rank=rank, world_size=processes)
    beats = Heartbeats(shared_by_learners(store, "in step"), rank, limit_s, partial(end_without, limit_s=limit_s))
    try:
        yield AllReduce(rank, processes, device)
    except RuntimeError as error:
        if "gloo" not in str(error) and "NCCL" not in str(error):
            raise
        time.sleep(limit_s)  # by then, the heartbeats have named the lost process
        raise UserError(f"the connection to another process was lost: {str(error).splitlines()[0]}") from error
    beats.close()
    dist.destroy_process_group()  # after an error the others may be gone, and this would wait for them


@contextlib.contextmanager
def _asynchronous(config: TrainConfig, processes: int, device: torch.device) -> Iterator[Learners]:
    """Learners that do not wait for each other. The launcher or the first of them holds the store that they share."""
    rank, size = int(os.environ["RANK"]), config.super_learner
    if processes % size:
        raise UserError(f"{processes} processes cannot be super-learners of {size}; set train.super_learner")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    has_store = os.environ.get(AGENT_STORE) == "True"
    _take_own_card()
    try:
        start = timedelta(seconds=START_LIMIT_S)
        tcp = dist.TCPStore(address, port, None, rank == 0 and not has_store, start, wait_for_workers=False)
    except dist.DistError as error:
        raise UserError(f"{address}:{port} cannot be reached; is learner 0 running?") from error
    store = shared_by_learners(tcp, os.environ.get(ATTEMPT, "0"))
    number, inner_rank = divmod(rank, size)
    if size > 1:
        own_store = dist.PrefixStore(f"super-learner/{number}", store)
        dist.init_process_group(_backend(device), store=own_store, rank=inner_rank, world_size=size)
        end = partial(end_without, limit_s=config.heartbeat_s)
        beats = Heartbeats(dist.PrefixStore("together", own_store), inner_rank, config.heartbeat_s, end)
    membership = Membership(store, number, processes // size, config.heartbeat_s) if inner_rank == 0 else None
    host = host_that_reaches(address, port)
    in_step = AllReduce(inner_rank, size, device)
    watched = config.watch_every > 0
    learners = Adpsgd(in_step, number, processes // size, store, membership, config.mixing, config.seed, host, watched)
    try:
        yield learners
    except LeftBehind as error:
        log(f"learner {number} was considered lost; it has to start again")
        raise SystemExit(JOIN_AGAIN) from error
    except UserError as error:
        if membership:
            with contextlib.suppress(dist.DistError):
                membership.fail(str(error))
        raise
    except dist.DistError as error:
        message = "the store that the learners share cannot be reached any more; run the same command to resume"
        raise UserError(message) from error
    except BaseException:
        if membership:
            membership.beats.stop()
        raise
    learners.close()
    if size > 1:
        beats.close()
        dist.destroy_process_group()


def _take_own_card() -> None:
    """Selects this process's CUDA device of several."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"
