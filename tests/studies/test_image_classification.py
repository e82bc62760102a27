"""Image studies: data, models, samplers, training, claims."""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from asrkit.data.soft_random_sampling import draw_size
from asrkit.errors import UserError
from asrkit.studies.cifar10 import CLASSES, DEVIATION, MEAN, Images, read_cifar10
from asrkit.studies.image_classification import (
    METHODS,
    Recipe,
    accuracy,
    epoch_indices,
    flipped_and_shifted,
    full_epochs,
    importance,
    train_classifier,
)
from asrkit.studies.image_experiments import Scale, Suite
from asrkit.studies.image_models import ImageModel, resnet18, small_cnn


def perceptron() -> ImageModel:
    """64-128-10, of one channel of 8 × 8 images."""
    return ImageModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()), 128)


def digits() -> tuple[Images, Images]:
    """Scikit-learn's 8 × 8 digits: 1257 to train on, 540 to test."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)
    images = (images - images.mean(0)) / (images.std(0) + 1.0)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.tensor(data.target)[order]
    return Images(images[:1257], labels[:1257]), Images(images[1257:], labels[1257:])


def random_images(count: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 10)


def test_resnet_18_has_its_parameters() -> None:
    model = resnet18()
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert model.embed(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_pickles_and_archives_read_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    labels = [i % 10 for i in range(40)]
    official = tmp_path / "official" / "cifar-10-batches-py"
    official.mkdir(parents=True)
    for name, part in {
        **{f"data_batch_{k + 1}": slice(6 * k, 6 * k + 6) for k in range(5)},
        "test_batch": slice(30, 40),
    }.items():
        batch = {b"data": pixels[part].reshape(-1, 3072), b"labels": labels[part]}
        (official / name).write_bytes(pickle.dumps(batch, protocol=2))
    train, test = read_cifar10(tmp_path / "official")
    assert train.images.shape == (30, 3, 32, 32)
    assert test.labels.sort().values.tolist() == list(range(10))
    raw = (test.images * torch.tensor(DEVIATION).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
    by_label = raw[test.labels.argsort()].round().to(torch.uint8).numpy()
    assert np.array_equal(by_label, pixels[30:])
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    for split, part in (("train", slice(0, 30)), ("test", slice(30, 40))):
        with zipfile.ZipFile(zipped / f"{split}.zip", "w") as archive:
            for i in range(40)[part]:
                buffer = io.BytesIO()
                Image.fromarray(pixels[i].transpose(1, 2, 0)).save(buffer, format="PNG")
                archive.writestr(f"{CLASSES[labels[i]]}/{i:04d}.png", buffer.getvalue())
    _, again = read_cifar10(zipped)
    assert torch.equal(again.images[again.labels.argsort()], test.images[test.labels.argsort()])


def test_what_is_no_cifar10_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CIFAR-10"):
        read_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": pickle.loads, b"labels": []}))
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": print, b"labels": []}))
    with pytest.raises(UserError, match=r"data_batch_1 .*builtins\.print|data_batch_1 .*__builtin__\.print"):
        read_cifar10(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train.zip", "test.zip"):
        (other / name).write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"train\.zip is not an archive"):
        read_cifar10(other)


def test_methods_draw_what_they_say() -> None:
    scores = {"EL2N": torch.arange(100.0), "GraNd": -torch.arange(100.0)}
    draws = {m: epoch_indices(m, 100, 0.2, 1, scores) for m in METHODS}
    for method, indices in draws.items():
        assert len(indices(1)) == 20, method
        assert torch.equal(indices(3), indices(3)), method
    assert set(draws["EL2N"](1).tolist()) == set(range(80, 100)) == set(draws["EL2N"](2).tolist())
    assert set(draws["GraNd"](1).tolist()) == set(range(20))
    assert set(draws["fixed random"](1).tolist()) == set(draws["fixed random"](2).tolist())
    assert draws["fixed random"](1).tolist() != draws["fixed random"](2).tolist()
    in_turn = torch.cat([draws["full, fewer epochs"](epoch) for epoch in range(1, 11)])
    assert sorted(in_turn[:100].tolist()) == sorted(in_turn[100:].tolist()) == list(range(100))


def test_updates_and_samples_are_counted() -> None:
    """epochs · floor(r N / batch) updates, whatever is left over."""
    data, recipe = random_images(100), Recipe(epochs=3, batch_size=8)
    torch.manual_seed(0)
    trained = train_classifier(small_cnn(4, 4, 4), data, epoch_indices("SRS", 100, 0.3, 1, {}), recipe, seed=1)
    assert (trained.steps, trained.samples) == (9, 72)
    with pytest.raises(ValueError, match="make no batch of 8"):
        train_classifier(small_cnn(4, 4, 4), data, epoch_indices("SRS", 100, 0.07, 1, {}), recipe, seed=1)


def test_training_repeats_itself() -> None:
    data, recipe = random_images(64), Recipe(epochs=2, batch_size=16)
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        model = small_cnn(4, 4, 8)
        train_classifier(model, data, full_epochs(64, 2), recipe, seed=5)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_flips_and_shifts() -> None:
    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8) + 1
    x = x.repeat(50, 1, 1, 1)
    moved = flipped_and_shifted(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    padded = functional.pad(torch.stack([x[:2], x[:2].flip(3)]), (4, 4, 4, 4))  # (flip, image, 3, 16, 16)
    windows = padded.unfold(3, 8, 1).unfold(4, 8, 1)  # (2, 2, 3, 9, 9, 8, 8)
    for i, image in enumerate(moved):
        same = (windows[:, i % 2] == image[:, None, None].unsqueeze(0)).flatten(-2).all(-1).all(1)
        assert same.sum() == 1, "each image is one window of the padded or mirrored one"


def test_importance_is_the_last_layers_gradient() -> None:
    torch.manual_seed(1)
    model = small_cnn(4, 4, 8).eval()
    data = random_images(6)
    scores = importance(model, data)
    for i in range(6):
        model.zero_grad()
        logits = model(data.images[i : i + 1])
        functional.cross_entropy(logits, data.labels[i : i + 1]).backward()
        assert model.output.weight.grad is not None and model.output.bias.grad is not None
        norm = (model.output.weight.grad.square().sum() + model.output.bias.grad.square().sum()).sqrt()
        assert scores["GraNd"][i].item() == pytest.approx(norm.item(), rel=1e-4)
        assert scores["EL2N"][i].item() == pytest.approx(model.output.bias.grad.norm().item(), rel=1e-4)


def test_claims_on_digits(tmp_path: Path) -> None:
    """What the paper's file asks of a small experiment: SRS above a fixed subset and hard core sets at small rates,
    equal to RS2, near all of the data at r = 0.3."""
    train, test = digits()
    scale = Scale(
        images=1257,
        watched_images=540,
        seeds=2,
        rates=(0.1, 0.3),
        recipe=Recipe(epochs=40, batch_size=32, augment=False),
        scoring_models=2,
        scoring_epochs=2,
        model=perceptron,
    )
    suite = Suite(tmp_path, train, test, scale)
    runs = suite.run()["runs"]

    def mean(method: str, rate: float) -> float:
        return float(np.mean([r["accuracy"] for r in runs if (r["method"], r["rate"]) == (method, rate)]))

    full = mean("full", 1.0)
    assert full > 0.95
    assert mean("SRS", 0.1) - mean("fixed random", 0.1) > 0.02
    assert mean("SRS", 0.1) - mean("EL2N", 0.1) > 0.05
    assert all(abs(mean("SRS", rate) - mean("RS2", rate)) < 0.015 for rate in (0.1, 0.3))
    assert mean("SRS", 0.3) > full - 0.015
    for run in runs:
        assert run["steps"] == draw_size(1257, run["rate"]) // 32 * 40
    page = (tmp_path / "RESULTS.md").read_text()
    for picture in ("coverage.png", "rates.png", "samples.png"):
        assert picture in page and (tmp_path / picture).stat().st_size > 10_000


def test_accuracy_of_a_known_model() -> None:
    model = small_cnn(2, 2, 2)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.copy_(torch.eye(10)[3])
    right = accuracy(model, replace(random_images(20), labels=torch.full((20,), 3)))
    assert right.mean().item() == 1.0
