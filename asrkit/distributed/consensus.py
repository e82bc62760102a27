"""The mean weights of learners that come and go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from asrkit.distributed.gossip import Gossip
from asrkit.distributed.membership import Membership
from asrkit.errors import UserError


def mean_of_present(
    membership: Membership, gossip: Gossip, of: Callable[[], torch.Tensor], buffers: Sequence[torch.Tensor] = ()
) -> list[torch.Tensor]:
    """The mean of what those present have, and the first one's buffers; once more without one that is lost.

    Args:
        membership: of the learners.
        gossip: whose exchanges are done before.
        of: (d,) what this one has then, such as its weights.
        buffers: of this one's module.

    Raises:
        UserError: the same learners failed twice.
    """
    failed: list[tuple[list[int], str]] = []
    while True:
        membership.meet("mean")
        gossip.settle()
        try:
            found = mean_of_members(membership, of(), buffers)
        except RuntimeError as error:  # the heartbeats tell to whom the connection was lost
            found, failed = [], [*failed, (membership.members, str(error).splitlines()[0])]
        if len(failed) > 1 and failed[-1][0] == failed[-2][0]:
            raise UserError(f"the learners cannot reach each other: {failed[-1][1]}")
        if all(membership.meet(bool(found)).values()):
            return found


def mean_of_members(membership: Membership, own: torch.Tensor, buffers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The mean of the members' vectors, and the first one's buffers, over a process group for this once.

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
