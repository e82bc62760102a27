"""Real learners in processes of their own, against the simulator and against one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asrkit.distributed.diagnostics import weight_spread
from asrkit.distributed.flat import flattened
from asrkit.distributed.mixing import KINDS, mixing_matrix
from asrkit.distributed.simulator import simulate_dpsgd
from asrkit.scoring.experiment import read_metrics
from tests.conftest import ROOT, Workshop
from tests.distributed.dpsgd_process import LR, Points, target


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_keeps_the_mean_and_is_the_same_for_all(kind: str) -> None:
    for n in (1, 2, 3, 5, 8):
        for step in range(3):
            t = mixing_matrix(kind, n, 1, step)
            for axis in (0, 1):
                assert torch.allclose(t.sum(axis), torch.ones(n, dtype=torch.float64), atol=1e-12, rtol=0)
            assert torch.equal(t, mixing_matrix(kind, n, 1, step)) and torch.equal(t, t.T)
    drawn = [mixing_matrix(kind, 8, 1, step) for step in range(4)]
    assert any(not torch.equal(drawn[0], t) for t in drawn[1:]) == kind.startswith("random")


@pytest.mark.parametrize(("kind", "n"), [("ring", 4), ("random_pairs", 3), ("random_ring", 3), ("average", 2)])
def test_learners_do_what_the_simulator_does(kind: str, n: int, tmp_path: Path) -> None:
    steps = 7
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    command += ["-m", "tests.distributed.dpsgd_process", kind, str(steps), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(n)]

    def gradient(weights: torch.Tensor, step: int) -> torch.Tensor:
        return weights - torch.stack([target(rank, step) for rank in range(n)])

    start = flattened(Points()).expand(n, -1)
    expected = simulate_dpsgd(start, gradient, lambda step: mixing_matrix(kind, n, 3, step), LR, steps)
    for rank in range(n):
        assert torch.allclose(found[rank]["own"], expected[rank], atol=1e-6)
        assert torch.allclose(found[rank]["mean"], expected.mean(dim=0), atol=1e-6)
        told = found[rank]["told"]
        assert told["weight_spread"] == pytest.approx(weight_spread(expected), rel=1e-4)
        # On a quadratic with one Hessian, the mean gradient is that at the mean weights.
        assert told["effective_lr"] == pytest.approx(1.0, abs=1e-5) and told["noise_of_spread"] < 1e-10
        # Gradients scatter as the targets do.
        targets = [torch.stack([target(rank, step) for rank in range(n)]) for step in range(0, steps, 2)]
        variances = [LR**2 * of_step.var(dim=0).sum().item() / n for of_step in targets]
        assert told["noise_of_batches"] == pytest.approx(sum(variances) / len(variances), rel=1e-4)
        assert told["noise"] == pytest.approx(told["noise_of_batches"] + told["noise_of_spread"])
    assert weight_spread(expected) > 1e-3


def test_one_learner_is_plain_training_bit_for_bit(workshop: Workshop) -> None:
    workshop.finish("one_ddp", "train.num_epochs=1")
    workshop.finish("one_dpsgd", "train.num_epochs=1", "train.parallel=dpsgd")
    plain, alone = workshop.weights("one_ddp"), workshop.weights("one_dpsgd")
    assert all(torch.equal(plain[name], alone[name]) for name in plain)


def test_watching_changes_nothing(workshop: Workshop, unbroken: dict[str, torch.Tensor]) -> None:
    workshop.finish("watched", *GIVEN, "train.watch_every=2", processes=2)
    assert all(torch.equal(tensor, unbroken[name]) for name, tensor in workshop.weights("watched").items())
    for line in read_metrics(workshop.folder / "watched" / "metrics.jsonl"):
        of = line["learners"]
        assert 0 < of["effective_lr"] < 1.5 and min(of["noise_of_batches"], of["noise_of_spread"]) > 0


GIVEN = "train.parallel=dpsgd", "train.mixing=random_pairs", "train.num_epochs=2"


@pytest.fixture(scope="module")
def unbroken(workshop: Workshop) -> dict[str, torch.Tensor]:
    """Weights of a decentralized training that nothing interrupted."""
    workshop.finish("decentralized", *GIVEN, processes=2)
    lines = read_metrics(workshop.folder / "decentralized" / "metrics.jsonl")
    assert all(line["learners"]["weight_spread"] > 0 for line in lines)
    return workshop.weights("decentralized")


@pytest.mark.parametrize("kill", [True, False])
def test_a_resumed_decentralized_training_repeats_the_unbroken_one(
    workshop: Workshop, unbroken: dict[str, torch.Tensor], kill: bool
) -> None:
    name = f"decentralized_{kill}"
    process = workshop.start(name, *GIVEN, processes=2)
    checkpoints = workshop.folder / name / "checkpoints"
    while process.poll() is None and len(list(checkpoints.glob("epoch-*.learner-1.pt"))) < 2:
        pass
    if kill:
        process.kill()
    else:
        process.terminate()
    process.wait()
    assert "resuming at epoch" in workshop.finish(name, *GIVEN, processes=2)
    resumed = workshop.weights(name)
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
    assert len(list(checkpoints.glob("*.learner-1.pt"))) == 2
    # A damaged file of one learner, or another number of learners: all start from the mean.
    newest = max(checkpoints.glob("*.learner-1.pt"), key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    processes = 2 if kill else 3
    printed = workshop.finish(name, *GIVEN[:2], "train.num_epochs=3", processes=processes)
    assert "every learner resumes from the mean weights" in printed
    assert ("is not what was written" in printed) == kill
    assert not list(checkpoints.glob("epoch-0001*.learner-*"))
