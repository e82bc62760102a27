"""What many tests start from: AN4's audio, small corpora with some of it, tiny models and their trainings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lhotse import CutSet
from safetensors.torch import load_file

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle
from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.corpora.an4 import read_an4
from asrkit.corpora.utterances import Utterance, check, cuts_of, recordings_of
from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import transcript
from asrkit.features.listen import Heard
from asrkit.features.normalization import GLOBAL, MeanStd
from asrkit.features.pipeline import FeaturePipeline
from asrkit.files import write_json
from asrkit.models.transducer import Transducer
from asrkit.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
AN4 = ROOT / "egs" / "an4" / "corpus"

TINY: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())


def tiny_config() -> Config:
    """An experiment that trains in seconds."""
    return config_from_dict(TINY, "tests")


def tiny_model(vocab_size: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> Transducer:
    """A transducer of a few thousand random parameters, in evaluation mode."""
    torch.manual_seed(seed)
    return build_transducer(tiny_config(), vocab_size).to(dtype).eval()


def tiny_bundle(seed: int = 0) -> ModelBundle[Transducer]:
    """A tiny model over the letters of AN4, with all that a model file holds."""
    tokenizer = train_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWXYZ ONE"], "char", 0)
    statistics = {GLOBAL: MeanStd(torch.full((16,), -5.0), torch.full((16,), 3.0))}
    return ModelBundle(tiny_model(tokenizer.vocab_size, seed), tiny_config(), tokenizer, statistics)


def run_cli(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the ``asrkit`` command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "asrkit", *map(str, args)], capture_output=True, text=True)


def to_cut_sets(utterances: Iterable[Utterance], heard: Mapping[str, Heard]) -> dict[str, CutSet]:
    """CutSets by split, of the utterances that were heard (that is, passed the check)."""
    utterances = list(utterances)
    recordings = recordings_of(utterances, heard)
    splits = dict.fromkeys(u.split for u in utterances if u.id in heard)
    return {split: CutSet.from_cuts(cuts_of(split, utterances, heard, recordings)) for split in splits}


@pytest.fixture(scope="session")
def an4_utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """All of AN4, as its lists state it."""
    return read_an4(AN4, tmp_path_factory.mktemp("an4")).utterances


@pytest.fixture(scope="session")
def an4_cuts(an4_utterances: list[Utterance]) -> CutSet:
    """Forty checked training utterances of AN4."""
    some = [u for u in an4_utterances if u.split == "train"][:40]
    checked = check(some)
    assert not checked.problems
    return to_cut_sets(some, checked.heard)["train"]


@pytest.fixture
def folder_corpus(tmp_path: Path, an4_utterances: list[Utterance]) -> Path:
    """Sixteen AN4 utterances of four speakers as a user's folder: audio, ``text`` and ``utt2spk``."""
    folder = tmp_path / "corpus"
    (folder / "audio").mkdir(parents=True)
    text, utt2spk = [], []
    speakers = sorted({u.speaker for u in an4_utterances if u.split == "train"})[:4]
    for speaker in speakers:
        for u in [u for u in an4_utterances if u.speaker == speaker][:4]:
            assert u.audio is not None
            shutil.copy(u.audio, folder / "audio" / u.audio.name)
            text.append(f"{u.id} {u.text}")
            utt2spk.append(f"{u.id} {u.speaker}")
    (folder / "text").write_text("\n".join(text) + "\n")
    (folder / "utt2spk").write_text("\n".join(utt2spk) + "\n")
    return folder


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
