"""The mean weights of learners that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from asrkit.distributed.membership import Membership


def mean_of_members(membership: Membership, own: torch.Tensor, buffers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The mean of the members' weights, and the first one's buffers, over a process group for this once.

    Raises:
        RuntimeError: a member is lost.
    """
    members = membership.members
    mean, copies = own.clone(), [buffer.cpu().clone() for buffer in buffers]
    if len(members) > 1:
        group: Any = dist.ProcessGroupGloo(
            dist.PrefixStore(f"group/{membership.met}", membership.store),
            members.index(membership.rank),
            len(members),
            timedelta(seconds=membership.beats.limit_s),
        )
        group.allreduce([mean]).wait()
        for copy in copies:
            group.broadcast(copy, 0).wait()
    return [mean / len(members), *copies]
