from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lhotse.utils import fastcopy
from torch import nn

from asrkit.bundle.build import REWRITES
from asrkit.bundle.model_file import load_recognizer
from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.config_losses import LossConfig
from asrkit.data.batching import Batch
from asrkit.data.cut_files import load_roots, write_cuts
from asrkit.data.folder import DataFolder
from asrkit.distributed.learners import AllReduce
from asrkit.errors import UserError
from asrkit.files import exclusive
from asrkit.models.transducer import Transducer
from asrkit.scoring.experiment import read_metrics
from asrkit.training.objective import Losses, Trainable, TransducerObjective
from asrkit.training.phase import Phase
from asrkit.training.run import run_training
from asrkit.training.stopping import Stopped
from tests.conftest import Workshop, tiny_model
from tests.training.processes import children_in_training


@pytest.fixture(scope="module")
def unbroken(workshop: Workshop) -> dict[str, torch.Tensor]:
    """Weights of a run that nothing interrupted."""
    workshop.finish("unbroken")
    return workshop.weights("unbroken")


def wait_for_checkpoints(folder: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob("checkpoints/epoch-*.state.pt"))) < number:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.01)


def test_a_killed_run_goes_on_to_the_same_weights(workshop: Workshop, unbroken: dict[str, torch.Tensor]) -> None:
    process = workshop.start("killed")
    wait_for_checkpoints(workshop.folder / "killed", 2)
    time.sleep(random.random() * 0.3)
    process.kill()
    process.wait()
    assert not (workshop.folder / "killed" / "averaged.safetensors").exists()
    assert "resuming at epoch" in workshop.finish("killed")
    resumed = workshop.weights("killed")
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    epochs = [line["epoch"] for line in read_metrics(workshop.folder / "killed" / "metrics.jsonl")]
    assert epochs == [1, 2, 3]


def test_sigterm_saves_and_the_run_goes_on(workshop: Workshop, unbroken: dict[str, torch.Tensor]) -> None:
    process = workshop.start("stopped", "train.checkpoint_every_steps=1000", "train.num_workers=1")
    deadline = time.monotonic() + 120
    while not (workshop.folder / "stopped" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert "stopped by SIGTERM; everything is saved" in printed and "Traceback" not in printed
    workshop.finish("stopped", "train.checkpoint_every_steps=1000", "train.num_workers=1")
    resumed = workshop.weights("stopped")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_two_processes_equal_one_with_all_of_the_batch(workshop: Workshop) -> None:
    dropouts = ("encoder.conformer.dropout", "predictor.dropout", "predictor.embedding_dropout")
    still = [f"model.{name}=0" for name in dropouts]
    still += ["train.num_epochs=2", "loss.ctc_only_epochs=1"]
    workshop.finish("one", *still)
    workshop.finish("two", *still, processes=2)
    workshop.finish("accumulated", *still, "train.accumulation_steps=3")
    one = workshop.weights("one")
    for other in ("two", "accumulated"):
        weights = workshop.weights(other)
        assert max((weights[name] - one[name]).abs().max().item() for name in one) < 1e-5
    lines = [read_metrics(workshop.folder / exp / "metrics.jsonl")[-1] for exp in ("one", "two")]
    assert lines[0]["utterances"] == lines[1]["utterances"] == 24
    assert lines[0]["loss"]["loss"] == pytest.approx(lines[1]["loss"]["loss"], rel=1e-4)


def test_a_run_stopped_within_an_epoch_goes_on_with_more_processes(workshop: Workshop) -> None:
    def stop(learners: AllReduce, module: nn.Module) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(AllReduce, "after_step", stop)
        run_training(workshop.config(), workshop.data_dir, workshop.folder / "more")
    assert "resuming at epoch 1, update 1 of it" in workshop.finish("more", processes=2)
    lines = read_metrics(workshop.folder / "more" / "metrics.jsonl")
    assert [line["utterances"] for line in lines] == [24, 24, 24]


def test_a_loader_error_ends_all_processes_in_one_line(workshop: Workshop) -> None:
    stored = sorted((workshop.data_dir / "features" / "train_numpy").rglob("*.npy"))[0]
    content = stored.read_bytes()
    stored.unlink()
    try:
        process = workshop.start("broken", processes=2)
        printed, _ = process.communicate(timeout=120)
    finally:
        stored.write_bytes(content)
    assert process.returncode == 2, printed
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("asrkit: ")]
    assert "cannot read the stored features of" in line
    assert line in (workshop.folder / "broken" / "log" / "rank-1.log").read_text()  # the other process ends so too


def test_torchrun_starts_the_same_training(workshop: Workshop) -> None:
    workshop.finish("launched", processes=2)
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "asrkit", "train"]
    paths = [
        "--data-dir",
        workshop.data_dir,
        "--exp-dir",
        workshop.folder / "torchrun",
        "--config",
        workshop.config_path,
    ]
    subprocess.run(
        [sys.executable, "-m", *command, *map(str, paths)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    launched, other = workshop.weights("launched"), workshop.weights("torchrun")
    assert all(torch.equal(launched[name], other[name]) for name in launched)


class Changed(nn.Module):
    """An objective whose losses are changed."""

    def __init__(self, plain: nn.Module, change: Callable[[Losses, Batch], Losses]) -> None:
        super().__init__()
        self.plain, self.change = plain, change

    def forward(self, model: Transducer, batch: Batch, phase: Phase) -> Losses:
        """The plain losses, changed."""
        return self.change(self.plain(model, batch, phase), batch)


def changing(change: Callable[[Losses, Batch], Losses]) -> Callable[[nn.Module], nn.Module]:
    """What :func:`run_training` takes to change the losses."""
    return partial(Changed, change=change)


def test_sampler_objective_learners_and_rewrites_are_asked_where_they_say(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {"sampler": [], "objective": [], "steps": [], "rewrite": []}

    def sampler(number: int, epoch: int) -> np.ndarray:
        seen["sampler"].append((number, epoch))
        return np.arange(6)

    def change(losses: Losses, batch: Batch) -> Losses:
        seen["objective"].append(len(batch.cuts))
        return losses

    def rewrite(model: nn.Module, config: Config) -> None:
        seen["rewrite"].append(config.rewrites)

    weight = "encoder.blocks.0.ff1.up.weight"

    def before_step(learners: AllReduce, module: Trainable) -> None:
        parameter = module.model.get_parameter(weight)
        assert parameter.grad is not None
        seen["steps"].append(("before", parameter.detach().clone()))

    def after_step(learners: AllReduce, module: Trainable) -> None:
        assert module.model.get_parameter(weight).grad is None
        seen["steps"].append(("after", module.model.get_parameter(weight).detach().clone()))

    monkeypatch.setattr(AllReduce, "before_step", before_step)
    monkeypatch.setattr(AllReduce, "after_step", after_step)
    monkeypatch.setitem(REWRITES, "counted", rewrite)
    config, exp = workshop.config(num_epochs=2), workshop.folder / "asked"
    config.rewrites = ["counted"]
    run_training(config, workshop.data_dir, exp, objective=changing(change), sampler=sampler)
    assert seen["sampler"] == [(24, 1), (24, 2)]
    assert sum(seen["objective"]) == 12
    assert [name for name, _ in seen["steps"]] == ["before", "after"] * len(seen["objective"])
    before, after = seen["steps"][0][1], seen["steps"][1][1]
    assert not torch.equal(before, after)  # the step lies between them
    assert seen["rewrite"] == [["counted"]]
    load_recognizer(exp / "averaged.safetensors")
    assert len(seen["rewrite"]) == 2  # a file with rewritten modules is read with the same rewrites
    monkeypatch.delitem(REWRITES, "counted")
    with pytest.raises(UserError, match="this version knows no 'counted'"):
        load_recognizer(exp / "averaged.safetensors")


def test_a_loss_that_is_not_finite_names_the_utterances(workshop: Workshop) -> None:
    calls: list[bool] = []

    def change(losses: Losses, batch: Batch) -> Losses:
        calls.append(torch.is_autocast_enabled("cpu"))
        return replace(losses, total=losses.total * float("nan"))

    with pytest.raises(UserError, match=r"the loss is not finite at epoch 1, update 0 \(utterances \S+"):
        run_training(
            workshop.config(autocast="bf16"),
            workshop.data_dir,
            workshop.folder / "nan",
            objective=changing(change),
        )
    assert calls == [True, False]  # once more without autocast, then the end


def test_a_loss_finite_without_autocast_goes_on(workshop: Workshop) -> None:
    def change(losses: Losses, batch: Batch) -> Losses:
        return replace(losses, total=losses.total * float("inf")) if torch.is_autocast_enabled("cpu") else losses

    run_training(
        workshop.config(autocast="bf16", num_epochs=1),
        workshop.data_dir,
        workshop.folder / "retry",
        objective=changing(change),
    )
    assert (workshop.folder / "retry" / "averaged.safetensors").exists()


class Twice(nn.Module):
    """An objective that is computed with autocast and without."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        assert isinstance(plain, TransducerObjective)
        self.plain, self.seen = plain, set[torch.dtype]()

    def forward(self, model: Transducer, batch: Batch, phase: Phase) -> Losses:
        """The losses with autocast."""
        assert self.plain.simple_joiner is not None
        self.plain.simple_joiner.register_forward_hook(lambda module, inputs, out: self.seen.add(out[0].dtype))
        torch.manual_seed(0)  # the same dropout twice
        losses: Losses = self.plain(model, batch, phase)
        torch.manual_seed(0)
        with torch.autocast("cpu", enabled=False):
            exact = self.plain(model, batch, phase)
        assert losses.total.dtype == torch.float32
        assert losses.total.item() == pytest.approx(exact.total.item(), rel=5e-3)
        return losses


def test_the_trivial_joiner_is_not_rounded_by_autocast(workshop: Workshop) -> None:
    made: list[Twice] = []

    def objective(plain: nn.Module) -> nn.Module:
        made.append(Twice(plain))
        return made[0]

    config = workshop.config(num_epochs=1, autocast="bf16")
    config.loss = LossConfig(prune_range=3)
    run_training(config, workshop.data_dir, workshop.folder / "pruned_bf16", objective=objective)
    assert torch.bfloat16 in made[0].seen


def test_a_setting_that_no_model_can_have_is_one_line(workshop: Workshop) -> None:
    config = workshop.config()
    config.model.encoder.conformer.num_heads = 3
    with pytest.raises(UserError, match="d_model 16 is not a multiple of num_heads 3"):
        run_training(config, workshop.data_dir, workshop.folder / "impossible")


@pytest.mark.parametrize("settings", [{"prune_range": 3}, {"implementation": "torchaudio"}, {"fastemit_lambda": 0.01}])
def test_every_loss_trains(workshop: Workshop, settings: dict[str, object]) -> None:
    config = workshop.config(num_epochs=2, checkpoint_every_steps=1000)
    config.loss = replace(config.loss, **settings)  # type: ignore[arg-type]
    exp = workshop.folder / "-".join(settings)
    run_training(config, workshop.data_dir, exp)
    lines = read_metrics(exp / "metrics.jsonl")
    assert lines[1]["loss"]["transducer"] < lines[0]["loss"]["transducer"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LossConfig(implementation="k2"), r"set loss\.prune_range, such as 5"),
        (LossConfig(implementation="k2", prune_range=5), r"k2, which is not installed"),
        (LossConfig(prune_range=1), r"give 0 \(full lattice\) or 2 and more"),
        (LossConfig(implementation="torchaudio", prune_range=5), r"set loss\.prune_range=0"),
        (LossConfig(fastemit_lambda=0.1, prune_range=5), r"fastemit_lambda needs"),
    ],
)
def test_losses_that_do_not_exist_are_refused(settings: LossConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TransducerObjective(settings, tiny_model())


def test_early_stop_and_metrics(workshop: Workshop) -> None:
    exp = workshop.folder / "early"
    # A rate this low changes no hypothesis, so the first measurement stays the best.
    config = workshop.config(num_epochs=9, early_stop_epochs=2)
    config.train.schedule.initial_lr = config.train.schedule.peak_lr = 1e-9
    run_training(config, workshop.data_dir, exp)
    lines = read_metrics(exp / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[0]["augmented"]["spec_augment"] > 0 and lines[0]["dev_wer"] is not None
    assert json.loads((exp / "metrics.jsonl").read_text().splitlines()[0]) == lines[0]
    assert any((exp / "tensorboard").iterdir())


def test_another_configuration_needs_another_folder(workshop: Workshop) -> None:
    run_training(workshop.config(num_epochs=1), workshop.data_dir, workshop.folder / "fixed")
    with pytest.raises(UserError, match=r"train\.seed=1, now it is 2"):
        run_training(workshop.config(num_epochs=1, seed=2), workshop.data_dir, workshop.folder / "fixed")


def test_a_setting_refused_before_any_update_can_be_changed(workshop: Workshop) -> None:
    exp = workshop.folder / "raised"
    with pytest.raises(
        UserError, match=r"more than train\.batch_seconds=0\.01, and so do \d+ others; raise it"
    ) as raised:
        run_training(workshop.config(num_epochs=1, batch_seconds=0.01), workshop.data_dir, exp)
    longest = max(DataFolder(workshop.data_dir).read_features("train"), key=lambda cut: cut.duration)
    assert str(raised.value).startswith(f"{longest.id} lasts")
    run_training(workshop.config(num_epochs=1), workshop.data_dir, exp)
    assert (exp / "averaged.safetensors").exists()


def test_utterances_without_room_for_their_labels_are_excluded(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An encoder frame of 80 ms holds no more than 12.5 labels a second."""
    values = yaml.safe_load(workshop.config_path.read_text())
    values["model"]["encoder"]["subsampling"] = 8
    values["train"] |= {"num_epochs": 1}
    data_dir = Path(shutil.copytree(workshop.data_dir, tmp_path / "data"))
    folder = DataFolder(data_dir)
    cuts = list(folder.read_features("train"))

    def say_more(number: int) -> None:
        said = [replace(cut.supervisions[0], text="AB" * round(10 * cut.duration)) for cut in cuts[:number]]
        changed = [fastcopy(cut, supervisions=[text]) for cut, text in zip(cuts, said, strict=False)]
        write_cuts(folder.features("train"), [*changed, *cuts[number:]], load_roots(data_dir))

    say_more(3)
    run_training(config_from_dict(values, "tests"), data_dir, tmp_path / "some")
    # The fourth speaks as fast by nature.
    assert f"note: 4 of 24 training utterances, such as {cuts[0].id}, have more labels" in capsys.readouterr().err
    assert read_metrics(tmp_path / "some" / "metrics.jsonl")[0]["utterances"] == 20
    say_more(20)
    with pytest.raises(UserError, match=r"2\d of 24 .* one every 80 ms; a smaller model\.encoder\.subsampling"):
        run_training(config_from_dict(values, "tests"), data_dir, tmp_path / "most")


def test_dev_can_be_measured_by_characters(workshop: Workshop) -> None:
    printed = workshop.finish("by_characters", "train.dev_measure=cer", "train.num_epochs=1", "loss.ctc_only_epochs=0")
    values = read_metrics(workshop.folder / "by_characters" / "metrics.jsonl")[0]
    assert values["dev_cer"] > 0 and "dev_wer" not in values and "dev CER " in printed


def test_a_training_that_is_done_can_be_done_again(workshop: Workshop, tmp_path: Path) -> None:
    """``--force`` moves the earlier one aside; a folder is trained in by one process at a time."""
    workshop.finish("again", "train.num_epochs=1")
    before = workshop.weights("again")
    assert "done before" in workshop.finish("again", "train.num_epochs=1")
    workshop.finish("again", "train.num_epochs=1", "--force")
    assert all(torch.equal(t, before[name]) for name, t in workshop.weights("again").items())
    assert (workshop.folder / "again.1" / "averaged.safetensors").is_file()
    with exclusive(workshop.folder / "again"):
        process = workshop.start("again", "train.num_epochs=2")
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and f"process {os.getpid()} is working in" in printed
    assert "Traceback" not in printed


def test_a_process_that_is_killed_is_named_and_ends_the_others(workshop: Workshop) -> None:
    launcher = workshop.start("killed", "train.num_epochs=500", processes=2)
    children = children_in_training(launcher.pid, 2)
    time.sleep(5)
    os.kill(children[1], signal.SIGKILL)
    printed, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 2 and "asrkit: process 1 of 2 was ended by SIGKILL" in printed
    launcher = workshop.start("orphaned", "train.num_epochs=500", processes=2)
    children = children_in_training(launcher.pid, 2)
    time.sleep(5)
    launcher.kill()
    launcher.communicate()
    deadline = time.monotonic() + 60
    while any(Path("/proc", str(pid)).exists() for pid in children):
        assert time.monotonic() < deadline, "processes outlive their launcher"
        time.sleep(0.2)


def test_data_that_changed_since_is_named(workshop: Workshop, tmp_path: Path) -> None:
    data_dir, exp = Path(shutil.copytree(workshop.data_dir, tmp_path / "data")), tmp_path / "exp"
    run_training(workshop.config(num_epochs=1), data_dir, exp)
    folder = DataFolder(data_dir)
    write_cuts(folder.features("train"), list(folder.read_features("train"))[1:], load_roots(data_dir))
    with pytest.raises(UserError, match="digest of train cuts="):
        run_training(workshop.config(num_epochs=2), data_dir, exp)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trains_on_cuda(workshop: Workshop) -> None:
    run_training(workshop.config(device="cuda", num_epochs=1), workshop.data_dir, workshop.folder / "cuda")
    assert all(torch.isfinite(t).all() for t in workshop.weights("cuda").values())
