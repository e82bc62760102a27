"""Averaging in the background, with real processes and connections that are lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from asrkit.distributed.mixing import SHARES, partner
from asrkit.distributed.updates import exchanged
from tests.conftest import ROOT
from tests.distributed.gossip_process import start


@pytest.mark.parametrize(("kind", "learners", "exchanges"), [("random_ring", 4, 2500), ("ring", 3, 300)])
def test_no_update_is_lost(kind: str, learners: int, exchanges: int, tmp_path: Path) -> None:
    """The sum of all weights is what it was, and both sides counted the same exchanges."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.gossip_process"]
            + [str(word) for word in (store.port, rank, learners, exchanges, kind, tmp_path)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(learners)
    ]
    for process in processes:
        _, printed = process.communicate(timeout=120)
        assert process.returncode == 0, printed[-2000:]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(learners)]
    before = torch.stack([start(rank) for rank in range(learners)])
    after = torch.stack([weights for weights, *_ in found])
    assert torch.allclose(after.sum(0), before.sum(0), atol=1e-12, rtol=0)
    assert (after - after.mean(0)).abs().max() < 1e-6  # and they agree
    assert sum(tally["exchanges"] for *_, tally in found) >= learners * exchanges
    assert sum(tally["failures"] for *_, tally in found) > 0  # connections were lost
    for rank in range(learners):
        for (peer, incarnation), numbers in found[rank][1].items():
            assert incarnation == 1 and found[peer][2][rank, 1] == numbers


def test_an_exchange_keeps_the_sum() -> None:
    a, b = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    difference = exchanged(a, b, 0.5)
    assert torch.allclose(a + difference, (a + b) / 2, atol=1e-15, rtol=0)
    assert torch.allclose(b - difference, (a + b) / 2, atol=1e-15, rtol=0)
    # Both links of a ring at once: a third of each.
    ring = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    right, left = ring.roll(-1, 0), ring.roll(1, 0)
    mixed = ring + exchanged(ring, right, SHARES["ring"]) - exchanged(left, ring, SHARES["ring"])
    assert torch.allclose(mixed, (ring + right + left) / 3, atol=1e-15, rtol=0)


def test_partners() -> None:
    present = [0, 2, 3, 7, 8]
    assert [partner("ring", present, rank, 1, 0) for rank in present] == [2, 3, 7, 8, 0]
    assert partner("ring", [4], 4, 1, 0) is None
    for kind in ("random_ring", "random_pairs"):
        drawn = [partner(kind, present, 3, 1, step) for step in range(2000)]
        assert 3 not in drawn and {rank for rank in drawn if rank is not None} == {0, 2, 7, 8}
        alone = drawn.count(None) / len(drawn)  # of an odd number one stays alone
        assert alone == pytest.approx(0.2 if kind == "random_pairs" else 0.0, abs=0.03)
        assert drawn[:50] != [partner(kind, present, 3, 2, step) for step in range(50)]
