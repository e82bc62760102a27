from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lhotse.cut import Cut

from asrkit.config import LossConfig
from asrkit.data.batching import Batch
from asrkit.data.feature_store import features_path, read_cuts
from asrkit.errors import UserError
from asrkit.models.dssformer import dssformer
from asrkit.models.transducer import Transducer
from asrkit.training.objective import Losses, transducer_objective
from asrkit.training.progress import read_metrics
from asrkit.training.run import run_training
from asrkit.training.trainer import Hooks, Stopped, parameter_groups
from tests.training.conftest import Workshop


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
    assert "going on at epoch" in workshop.finish("killed")
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
    def stop(model: torch.nn.Module, updates: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        run_training(workshop.config(), workshop.data_dir, workshop.folder / "more", Hooks(after_step=stop))
    assert "going on at epoch 1, update 1 of it" in workshop.finish("more", processes=2)
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


def test_hooks_are_called_where_they_say(workshop: Workshop) -> None:
    seen: dict[str, list[int]] = {"select": [], "objective": [], "after_step": [], "rewrite": []}
    plain = transducer_objective(LossConfig())

    def select(cuts: Sequence[Cut], epoch: int) -> Sequence[Cut]:
        seen["select"].append(epoch)
        return cuts[:6]

    def objective(model: Transducer, batch: Batch, epoch: int) -> Losses:
        seen["objective"].append(len(batch.cuts))
        return plain(model, batch, epoch)

    hooks = Hooks(
        select=select,
        objective=objective,
        after_step=lambda model, update: seen["after_step"].append(update),
        rewrite=lambda model: seen["rewrite"].append(sum(1 for _ in model.modules())),
    )
    run_training(workshop.config(num_epochs=2), workshop.data_dir, workshop.folder / "hooks", hooks)
    assert seen["select"] == [1, 2]
    assert sum(seen["objective"]) == 12
    assert seen["after_step"] == list(range(1, len(seen["objective"]) + 1))
    assert len(seen["rewrite"]) == 1


def test_a_loss_that_is_not_finite_names_the_utterances(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[bool] = []
    plain = transducer_objective(LossConfig())

    def objective(model: Transducer, batch: Batch, epoch: int) -> Losses:
        calls.append(torch.is_autocast_enabled("cpu"))
        losses = plain(model, batch, epoch)
        return replace(losses, total=losses.total * float("nan"))

    with pytest.raises(UserError, match=r"the loss is not finite at epoch 1, update 0 \(utterances \S+"):
        run_training(
            workshop.config(autocast="bf16"), workshop.data_dir, workshop.folder / "nan", Hooks(objective=objective)
        )
    assert calls == [True, False]  # once more without autocast, then the end


def test_a_loss_finite_without_autocast_goes_on(workshop: Workshop) -> None:
    plain = transducer_objective(LossConfig())

    def objective(model: Transducer, batch: Batch, epoch: int) -> Losses:
        losses = plain(model, batch, epoch)
        return replace(losses, total=losses.total * float("inf")) if torch.is_autocast_enabled("cpu") else losses

    run_training(
        workshop.config(autocast="bf16", num_epochs=1),
        workshop.data_dir,
        workshop.folder / "retry",
        Hooks(objective=objective),
    )
    assert (workshop.folder / "retry" / "averaged.safetensors").exists()


def test_the_trivial_joiner_is_not_rounded_by_autocast(workshop: Workshop) -> None:
    seen: list[torch.dtype] = []

    def objective(model: Transducer, batch: Batch, epoch: int) -> Losses:
        assert model.simple_joiner is not None
        model.simple_joiner.register_forward_hook(lambda module, inputs, out: seen.append(out[0].dtype))
        torch.manual_seed(0)  # the same dropout twice
        losses = plain(model, batch, epoch)
        torch.manual_seed(0)
        with torch.autocast("cpu", enabled=False):
            exact = plain(model, batch, epoch)
        assert losses.total.dtype == torch.float32
        assert losses.total.item() == pytest.approx(exact.total.item(), rel=5e-3)
        return losses

    config = workshop.config(num_epochs=1, autocast="bf16")
    config.loss = LossConfig(prune_range=3)
    plain = transducer_objective(config.loss)
    run_training(config, workshop.data_dir, workshop.folder / "pruned_bf16", Hooks(objective=objective))
    assert torch.bfloat16 in seen


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
        transducer_objective(settings)


def test_state_spaces_are_not_decayed() -> None:
    encoder = dssformer(16, dss={"state_dim": 4}, num_layers=2, d_model=16, num_heads=2)
    decayed, spared = parameter_groups(encoder, 0.1)
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    assert isinstance(spared["params"], list) and len(spared["params"]) == 2 * 4
    assert isinstance(decayed["params"], list) and len(decayed["params"]) == len(list(encoder.parameters())) - 8


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
    with pytest.raises(UserError, match=r"more than train\.batch_seconds=0\.01; raise it") as raised:
        run_training(workshop.config(num_epochs=1, batch_seconds=0.01), workshop.data_dir, exp)
    longest = max(read_cuts(features_path(workshop.data_dir, "train")), key=lambda cut: cut.duration)
    assert str(raised.value).startswith(f"{longest.id} lasts")
    run_training(workshop.config(num_epochs=1), workshop.data_dir, exp)
    assert (exp / "averaged.safetensors").exists()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trains_on_cuda(workshop: Workshop) -> None:
    run_training(workshop.config(device="cuda", num_epochs=1), workshop.data_dir, workshop.folder / "cuda")
    assert all(torch.isfinite(t).all() for t in workshop.weights("cuda").values())
