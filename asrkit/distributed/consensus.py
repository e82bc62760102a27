"""The mean weights of learners that join and leave."""

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
    membership: Membership, gossip: Gossip, vector: Callable[[], torch.Tensor], buffers: Sequence[torch.Tensor] = ()
) -> list[torch.Tensor]:
    """The mean vector of the learners present, and the first one's buffers; retried without one that is lost.

    Args:
        membership: of the learners.
        gossip: its exchanges are settled first.
        vector: returns this learner's (d,), such as its weights.
        buffers: of this learner's module.

    Raises:
        UserError: the same learners failed twice.
    """
    failures: list[tuple[list[int], str]] = []
    while True:
        membership.meet("mean")
        gossip.settle()
        try:
            means = mean_of_members(membership, vector(), buffers)
        except RuntimeError as error:  # the heartbeats show which learner was lost
            means, failures = [], [*failures, (membership.members, str(error).splitlines()[0])]
        if len(failures) > 1 and failures[-1][0] == failures[-2][0]:
            raise UserError(f"the learners cannot reach each other: {failures[-1][1]}")
        if all(membership.meet(bool(means)).values()):
            return means


def mean_of_members(membership: Membership, own: torch.Tensor, buffers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The mean of the members' vectors, and the first one's buffers, over a temporary process group.

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
