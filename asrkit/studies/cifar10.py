"""CIFAR-10 (Krizhevsky 2009) from its pickles or from folders of JPEG files in two archives."""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrkit.console import progress_bar
from asrkit.errors import UserError
from asrkit.randomness import seeded_generator

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PICKLES = "cifar-10-batches-py"
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Per channel of the training images."""
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
"""What the official pickles need."""


@dataclass(frozen=True)
class Images:
    """Images (N, 3, 32, 32) float32, normalized by channel, and labels (N,) int64."""

    images: torch.Tensor
    labels: torch.Tensor

    def first(self, count: int) -> Images:
        """The first ``count``."""
        return Images(self.images[:count], self.labels[:count])


def read_cifar10(folder: Path) -> tuple[Images, Images]:
    """Training and test images, in a random but fixed order.

    Args:
        folder: with ``cifar-10-batches-py`` (or its files), or with ``train.zip`` and ``test.zip``.

    Raises:
        UserError: neither is there, or a file is damaged.
    """
    pickles = folder / PICKLES if (folder / PICKLES).is_dir() else folder
    if (pickles / "test_batch").is_file():
        return _finish(_read_pickles(pickles, "data_batch_?")), _finish(_read_pickles(pickles, "test_batch"))
    if (folder / "train.zip").is_file() and (folder / "test.zip").is_file():
        return _finish(_read_archive(folder / "train.zip")), _finish(_read_archive(folder / "test.zip"))
    raise UserError(f"no CIFAR-10 in {folder}: neither {PICKLES}/test_batch nor train.zip and test.zip")


class _PlainUnpickler(pickle.Unpickler):
    """Reads arrays and plain values only: a pickle could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR-10 does not need")
        return super().find_class(module, name)


def _read_pickles(folder: Path, pattern: str) -> tuple[np.ndarray, list[int]]:
    images, labels = [], []
    for path in sorted(folder.glob(pattern)):
        try:
            with open(path, "rb") as file:
                batch = _PlainUnpickler(file, encoding="bytes").load()
            images.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
            labels += [int(label) for label in batch[b"labels"]]
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a batch of CIFAR-10: {error}; fetch it again") from error
    return np.concatenate(images), labels


def _read_archive(path: Path) -> tuple[np.ndarray, list[int]]:
    from PIL import Image, UnidentifiedImageError

    images, labels = [], []
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
            with progress_bar(path.name, len(names)) as bar:
                for name in names:
                    with Image.open(io.BytesIO(archive.read(name))) as image:
                        images.append(np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1))
                    labels.append(CLASSES.index(name.split("/")[-2]))
                    bar.advance()
    except (zipfile.BadZipFile, UnidentifiedImageError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not an archive of CIFAR-10 images by class: {error}; fetch it again") from error
    return np.stack(images), labels


def _finish(read: tuple[np.ndarray, list[int]]) -> Images:
    """Shuffled, since the archives are ordered by class, and normalized."""
    images, labels = torch.from_numpy(read[0]), torch.tensor(read[1])
    order = torch.randperm(len(labels), generator=seeded_generator(0))
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)
    return Images((images[order].float() / 255.0 - mean) / deviation, labels[order])
