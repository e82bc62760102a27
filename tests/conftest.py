"""What many tests start from: AN4's audio, small corpora made of it, and tiny models."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lhotse import CutSet

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle
from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.corpora.an4 import read_an4
from asrkit.corpora.utterances import Utterance, check, to_cut_sets
from asrkit.features.normalization import GLOBAL, MeanStd
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


@pytest.fixture(scope="session")
def an4_utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """All of AN4, as its lists state it."""
    return read_an4(AN4, tmp_path_factory.mktemp("an4"))


@pytest.fixture(scope="session")
def an4_cuts(an4_utterances: list[Utterance]) -> CutSet:
    """Forty checked training utterances of AN4."""
    some = [u for u in an4_utterances if u.split == "train"][:40]
    problems, recordings = check(some)
    assert not problems
    return to_cut_sets(some, recordings)["train"]


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
