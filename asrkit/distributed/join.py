"""Which learners a training has: what ``train.parallel`` names, over the processes that were started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch.distributed as dist

from asrkit.config_training import TrainConfig
from asrkit.distributed.dpsgd import Dpsgd
from asrkit.distributed.learners import AllReduce, Learners, join_processes


@contextlib.contextmanager
def join_learners(config: TrainConfig) -> Iterator[Learners]:
    """Joins the processes that ``torchrun`` or ``--processes`` started; alone without them."""
    with join_processes(config.device) as (rank, world_size, device):
        if config.parallel == "dpsgd":
            group = dist.new_group() if world_size > 1 else None
            yield Dpsgd(rank, world_size, device, config.mixing, config.seed, group=group)
        else:
            yield AllReduce(rank, world_size, device)
