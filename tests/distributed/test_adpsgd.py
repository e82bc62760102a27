"""Trainings whose learners wait for nobody, by the command: alone, as super-learners, interrupted and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from asrkit.scoring.experiment import read_metrics
from tests.conftest import Workshop
from tests.training.processes import children_in_training

ASYNCHRONOUS = "train.parallel=adpsgd", "train.mixing=random_ring"


def test_one_learner_is_plain_training(workshop: Workshop) -> None:
    """With a single process nothing is exchanged."""
    workshop.finish("one_ddp", "train.num_epochs=1")
    workshop.finish("one_adpsgd", "train.num_epochs=1", *ASYNCHRONOUS)
    plain, alone = workshop.weights("one_ddp"), workshop.weights("one_adpsgd")
    assert all(torch.equal(plain[name], alone[name]) for name in plain)


@pytest.mark.parametrize(
    ("processes", "given"),
    [
        (3, ["train.mixing=random_pairs"]),  # of two, both are equal after each exchange
        (4, ["train.mixing=ring", "train.super_learner=2"]),
        (3, ["train.mixing=average"]),
    ],
)
def test_an_epoch_presents_each_utterance_once(workshop: Workshop, processes: int, given: list[str]) -> None:
    name = f"asynchronous_{given[0].split('=')[1]}"
    start = [*given, "train.parallel=adpsgd", "train.num_epochs=2", "train.checkpoint_every_steps=2"]
    start += ["train.watch_every=2"]
    workshop.finish(name, *start, processes=processes)
    lines = read_metrics(workshop.folder / name / "metrics.jsonl")
    assert [line["utterances"] for line in lines] == [24, 24]
    assert all(line["learners"]["weight_spread"] > 0 for line in lines)
    for of in (line["learners"] for line in lines):
        assert 0 < of["effective_lr"] < 1.5 and min(of["noise_of_batches"], of["noise_of_spread"]) > 0
        assert of["noise"] == pytest.approx(of["noise_of_batches"] + of["noise_of_spread"])
    if "train.mixing=average" not in given:
        updates = [line["learners"]["updates"] for line in lines]
        learners = 2 if "train.super_learner=2" in given else processes
        assert all(
            sum(of_epoch.values()) == learners * line["updates"] for of_epoch, line in zip(updates, lines, strict=True)
        )
    assert all(torch.isfinite(tensor).all() for tensor in workshop.weights(name).values())


def test_a_super_learner_of_all_is_synchronous(workshop: Workshop) -> None:
    given = ["train.num_epochs=1", "train.max_grad_norm=1000"]
    workshop.finish("together", *given, processes=2)
    workshop.finish("one_super", *given, "train.parallel=adpsgd", "train.super_learner=2", processes=2)
    together, one = workshop.weights("together"), workshop.weights("one_super")
    assert all(torch.allclose(together[name], one[name], atol=1e-6) for name in together)


@pytest.mark.parametrize("processes", [2, 4])
def test_a_training_that_was_stopped_resumes_with_the_rest_of_the_epoch(workshop: Workshop, processes: int) -> None:
    given = *ASYNCHRONOUS, "train.num_epochs=3", f"train.super_learner={processes // 2}"
    process = workshop.start(f"stopped_{processes}", *given, processes=processes)
    checkpoints = workshop.folder / f"stopped_{processes}" / "checkpoints"
    _wait_for(lambda: bool(list(checkpoints.glob("epoch-0002-step-*.learner-1.pt"))), process)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143, printed
    assert "resuming at epoch" in workshop.finish(f"stopped_{processes}", *given, processes=processes)
    lines = read_metrics(workshop.folder / f"stopped_{processes}" / "metrics.jsonl")
    assert [line["utterances"] for line in lines] == [24, 24, 24]


def test_learners_that_are_killed_join_the_others_again(workshop: Workshop) -> None:
    given = *ASYNCHRONOUS, "train.num_epochs=16", "train.heartbeat_s=5", "train.num_workers=1"
    process = workshop.start("killed_learners", *given, processes=3)
    folder = workshop.folder / "killed_learners"
    joined = "learner 1 joins the others in epoch"
    _wait_for(lambda: bool(read_metrics(folder / "metrics.jsonl")), process)
    os.kill(children_in_training(process.pid, 3)[1], signal.SIGKILL)
    _wait_for(lambda: joined in (folder / "log" / "rank-1.log").read_text(), process)
    os.kill(children_in_training(process.pid, 3)[0], signal.SIGKILL)
    printed, _ = process.communicate(timeout=170)
    assert process.returncode == 0, printed
    assert "process 1 of 3 was ended by SIGKILL, perhaps for memory; it starts again and joins the others" in printed
    # Learner 0 joins them too, unless they were just meeting.
    assert "learner 0 joins the others in epoch" in printed or "all start again from the last checkpoint" in printed
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, 17))
    assert lines[-1]["utterances"] == 24


def test_a_learner_that_stood_still_is_left_behind_and_joins_again(workshop: Workshop) -> None:
    process = workshop.start("still", *ASYNCHRONOUS, "train.num_epochs=16", "train.heartbeat_s=2", processes=2)
    folder = workshop.folder / "still"
    _wait_for(lambda: bool(read_metrics(folder / "metrics.jsonl")), process)
    stopped = children_in_training(process.pid, 2)[1]
    os.kill(stopped, signal.SIGSTOP)
    before = len(read_metrics(folder / "metrics.jsonl"))
    _wait_for(lambda: len(read_metrics(folder / "metrics.jsonl")) >= before + 4, process)  # the other goes on alone
    os.kill(stopped, signal.SIGCONT)
    printed, _ = process.communicate(timeout=170)
    assert process.returncode == 0, printed
    assert "process 1 of 2 was lost to the others; it starts again and joins the others" in printed
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, 17))
    assert min(line["learners"]["learners"] for line in lines) == 1 and lines[-1]["utterances"] == 24


def test_bad_data_ends_all_learners_in_one_line(workshop: Workshop, tmp_path: Path) -> None:
    given = *ASYNCHRONOUS, "train.schedule.initial_lr=900", "train.schedule.peak_lr=900", "train.autocast=none"
    process = workshop.start("exploding", *given, "train.num_epochs=20", processes=2)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "is not finite" in printed and "Traceback" not in printed
    assert "starts again" not in printed, printed


def test_learners_in_step_name_the_one_that_hangs(workshop: Workshop) -> None:
    process = workshop.start("hanging", "train.num_epochs=500", "train.heartbeat_s=3", processes=2)
    _wait_for(lambda: bool(read_metrics(workshop.folder / "hanging" / "metrics.jsonl")), process)
    stopped = children_in_training(process.pid, 2)[1]
    os.kill(stopped, signal.SIGSTOP)
    started = time.monotonic()
    printed, _ = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode == 2 and "learner 1 has not been heard of for 3 s" in printed


def _wait_for(condition, process: subprocess.Popen[str]) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
