"""A prepared data folder and the means to train on it, in this process or in others."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from lhotse import CutSet
from safetensors.torch import load_file

from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.folder import DataFolder
from asrkit.data.loaders import transcript
from asrkit.features.pipeline import FeaturePipeline
from asrkit.files import write_json
from asrkit.text.tokenizer import train_tokenizer
from tests.conftest import TINY


@dataclass(frozen=True)
class Workshop:
    """A data folder, a place for experiments, and a configuration file."""

    data_dir: Path
    folder: Path
    config_path: Path

    def config(self, **train: object) -> Config:
        """The tiny experiment with other ``train`` settings."""
        values = yaml.safe_load(self.config_path.read_text())
        values["train"] |= train
        return config_from_dict(values, "tests")

    def start(self, exp: str, *overrides: str, processes: int = 1) -> subprocess.Popen[str]:
        """Starts ``asrkit train`` in processes of its own."""
        command = [
            sys.executable,
            "-m",
            "asrkit",
            "train",
            "--processes",
            processes,
            "--data-dir",
            self.data_dir,
            "--exp-dir",
            self.folder / exp,
            "--config",
            self.config_path,
            *overrides,
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def finish(self, exp: str, *overrides: str, processes: int = 1) -> str:
        """Trains to the end and returns what was printed."""
        process = self.start(exp, *overrides, processes=processes)
        printed, _ = process.communicate(timeout=180)
        assert process.returncode == 0, printed
        return printed

    def weights(self, exp: str) -> dict[str, torch.Tensor]:
        """The averaged model's tensors."""
        return load_file(self.folder / exp / "averaged.safetensors")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, an4_cuts: CutSet) -> Workshop:
    """Twenty-four utterances to train on and six to measure on."""
    folder = tmp_path_factory.mktemp("workshop")
    cuts = list(an4_cuts)
    data = DataFolder(folder / "data")
    splits = {"train": CutSet.from_cuts(cuts[:24]), "dev": CutSet.from_cuts(cuts[24:30])}
    for split, part in splits.items():
        make_features(part, split, data, sampling_rate_hz=16000, num_mel_bins=16, speed_factors=[1.0], store=True)
    pipeline = FeaturePipeline(num_mel_bins=16, normalization="none")
    data.save_statistics(compute_statistics(splits["train"], pipeline))
    write_json(data.tokenizer, train_tokenizer(map(transcript, cuts[:30]), "char", 0).to_dict())
    values = TINY | {"train": TINY["train"] | {"num_epochs": 3, "checkpoint_every_steps": 1}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return Workshop(folder / "data", folder, folder / "tiny.yaml")
