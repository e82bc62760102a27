"""Learners of :mod:`tests.distributed.test_gossip`, each in a process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from asrkit.distributed.gossip import Gossip
from asrkit.distributed.membership import Membership

DIMENSIONS = 50
DROPS = 5


def start(rank: int) -> torch.Tensor:
    """(d,) weights that a learner begins with."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(DIMENSIONS, dtype=torch.float64, generator=generator)


def main(port: int, rank: int, learners: int, exchanges: int, kind: str, out: Path) -> None:
    """Averages until so many of its requests were answered, and leaves its weights."""
    store = dist.PrefixStore("test", dist.TCPStore("127.0.0.1", port, None, False))
    membership = Membership(store, rank, learners, 10.0)
    gossip = Gossip(start(rank), membership, kind, 5, b"8 bytes.", "127.0.0.1", record=True)
    gossip.open()
    membership.meet("begin")
    dropped = 0
    while gossip.tally.exchanges < exchanges:
        gossip.step(torch.zeros(DIMENSIONS, dtype=torch.float64))
        if gossip.tally.exchanges >= (dropped + 1) * exchanges / DROPS:  # every now and then connections are lost
            gossip.drop_connections()
            dropped += 1
        time.sleep(0.0002)
    gossip.pause()
    membership.meet("settle")
    gossip.settle()
    membership.meet("done")
    agreed = {who: asked.agreed for who, asked in gossip.asked.items()}
    torch.save([gossip.weights(), gossip.added, agreed, vars(gossip.tally)], out / f"{rank}.pt")
    membership.meet("end")
    gossip.close()
    membership.close()


if __name__ == "__main__":
    port, rank, learners, exchanges = map(int, sys.argv[1:5])
    main(port, rank, learners, exchanges, sys.argv[5], Path(sys.argv[6]))
