from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from asrkit.bundle.model_file import ModelBundle, save_recognizer
from asrkit.errors import UserError
from asrkit.models.transducer import Transducer
from asrkit.training.checkpoint import CheckpointFolder, CheckpointName, average_tensors, upgrade_state
from asrkit.training.loop import LoopState
from asrkit.training.objective import Trainable
from tests.conftest import Workshop, tiny_bundle


def writer(bundle: ModelBundle[Transducer]) -> Callable[[Path], None]:
    """How a task writes a checkpoint's model file."""
    return partial(save_recognizer, bundle=bundle)


def trainable(bundle: ModelBundle[Transducer]) -> Trainable:
    """A model with an objective without parameters."""
    return Trainable(bundle.model, nn.Module())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small tmpfs needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_the_earlier_file(small_disk: Path) -> None:
    bundle = tiny_bundle()
    path = small_disk / "m.safetensors"
    save_recognizer(path, bundle)
    before = path.read_bytes()
    (small_disk / "filler").write_bytes(bytes(200_000 - len(before) - 20_000))
    with pytest.raises(UserError, match=r"cannot write .*m\.safetensors") as caught:
        save_recognizer(path, tiny_bundle(seed=1))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "m.safetensors"]


def test_training_state_on_a_full_disk_leaves_the_earlier_checkpoint(small_disk: Path) -> None:
    folder = CheckpointFolder(small_disk, keep_last=2, keep_every_epochs=0)
    state = {"optimizer": torch.zeros(100)}
    folder.save(CheckpointName(1, True), writer(tiny_bundle()), state, best_epoch=1)
    with pytest.raises(UserError, match="cannot write"):
        folder.save(CheckpointName(2, True), writer(tiny_bundle()), {"optimizer": torch.zeros(50_000)}, best_epoch=1)
    assert folder.resumable() == [CheckpointName(1, True)]
    loaded = folder.load_latest(trainable(tiny_bundle(seed=1)))
    assert loaded is not None and torch.equal(loaded["optimizer"], state["optimizer"])


def test_averaging_is_the_mean(tmp_path: Path) -> None:
    paths = []
    for seed in range(3):
        paths.append(tmp_path / f"{seed}.safetensors")
        save_recognizer(paths[-1], tiny_bundle(seed))
    averaged = average_tensors(paths)
    files = [load_file(path) for path in paths]
    assert averaged.keys() == files[0].keys()
    for name, tensor in averaged.items():
        expected = torch.stack([file[name] for file in files]).mean(0)
        assert torch.allclose(tensor, expected, atol=1e-7)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, bundles = CheckpointFolder(tmp_path, 2, 0), [tiny_bundle(seed) for seed in range(2)]
    for epoch, bundle in enumerate(bundles, 1):
        folder.save(CheckpointName(epoch, True), writer(bundle), {"loop": epoch}, best_epoch=1)
    first, second = (folder.state(CheckpointName(epoch, True)) for epoch in (1, 2))
    module = trainable(tiny_bundle(2))
    model = module.model
    assert folder.load_latest(module) == {"loop": 2}
    content = second.read_bytes()
    flipped = (content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in range(0, len(content), 97))
    for damaged in (content[:100], b"", b"text of another kind", *flipped):
        second.write_bytes(damaged)
        assert folder.load_latest(module) == {"loop": 1}
    assert folder.load_latest(module) == {"loop": 1}
    assert "epoch-0002 cannot be read" in capsys.readouterr().err
    expected = bundles[0].model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    weights = folder.weights(CheckpointName(1, True))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        folder.load_latest(module)
    assert first.is_file() and second.is_file()


def test_what_is_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=3, keep_every_epochs=4)
    bundle = tiny_bundle()
    for epoch in range(1, 11):
        folder.save(CheckpointName(epoch, False, 5), writer(bundle), {"epoch": epoch}, best_epoch=min(epoch - 1, 2))
        folder.save(CheckpointName(epoch, True), writer(bundle), {"epoch": epoch}, best_epoch=min(epoch, 2))
    assert folder.resumable() == [CheckpointName(10, False, 5), CheckpointName(10, True)]
    ends = [2, 4, 8, 9, 10]  # the best, every 4th, the last 3
    expected = {f"epoch-{e:04d}.safetensors" for e in ends} | {"epoch-0010-step-000005.safetensors"}
    assert {p.name for p in tmp_path.glob("*.safetensors")} == expected
    state = folder.load_latest(trainable(bundle))
    assert state is not None and state["epoch"] == 10
    assert [p.name for p in folder.last_epochs(2)] == ["epoch-0009.safetensors", "epoch-0010.safetensors"]


def test_the_state_of_version_1_is_read() -> None:
    recognizer = {
        "optimizer": {"a": 1},
        "scaler": {},
        "loop": {
            "epoch": 3,
            "step": 2,
            "updates": 9,
            "best_wer": 7.5,
            "best_epoch": 2,
            "measurements_since_best": 1,
            "sums": {"loss": 8.0, "ctc": 6.0, "utterances": 4.0, "speech_s": 9.5, "train_s": 2.0, "wait_s": 0.5},
            "augmented": {"speed": 3},
        },
    }
    state = upgrade_state(recognizer)
    assert LoopState(**state["loop"]) == LoopState(
        epoch=3,
        step=2,
        updates=9,
        best=7.5,
        best_epoch=2,
        measurements_since_best=1,
        sums={
            "utterances": 4.0,
            "speech_s": 9.5,
            "train_s": 2.0,
            "wait_s": 0.5,
            "loss/loss": 8.0,
            "number/loss": 4.0,
            "loss/ctc": 6.0,
            "number/ctc": 4.0,
            "augmented/speed": 3,
        },
    )
    assert state["optimizer"] == {"a": 1} and state["scaler"] == {}
    text = {
        "optimizer": {},
        "loop": {
            "epoch": 1,
            "step": 5,
            "updates": 5,
            "best_perplexity": 4.5,
            "best_epoch": 0,
            "sums": {"loss": 8.0, "symbols": 4.0, "seconds": 1.5},
        },
    }
    state = upgrade_state(text)
    found = LoopState(**state["loop"])
    assert found.best == 4.5 and found.sums["loss/loss"] / found.sums["number/loss"] == 2.0
    assert found.sums["train_s"] == 1.5 and state["scaler"] == {}
    assert upgrade_state({"format": 2, "loop": {"epoch": 1}}) == {"loop": {"epoch": 1}}
    with pytest.raises(UserError, match="a later version of asrkit"):
        upgrade_state({"format": 3, "loop": {}})


def test_fewer_epochs_than_are_trained_are_refused(workshop: Workshop) -> None:
    workshop.finish("two_epochs", "train.num_epochs=2")
    before = (workshop.folder / "two_epochs" / "averaged.safetensors").read_bytes()
    process = workshop.start("two_epochs", "train.num_epochs=1")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "has 2 epochs, more than the 1 asked for; raise train.num_epochs" in printed
    assert (workshop.folder / "two_epochs" / "averaged.safetensors").read_bytes() == before
