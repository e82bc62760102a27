"""egs/librispeech/run.sh from a small release in LibriSpeech's layout to a WER, with and without transcripts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from asrkit.data.folder import DataFolder
from asrkit.scoring.experiment import read_metrics
from tests.conftest import ROOT, TINY
from tests.corpora.miniature import librispeech

PARTS = {"train-clean-100": 12, "train-clean-360": 6, "train-other-500": 6, "dev-clean": 4, "test-clean": 4}


def test_bl_just_on_a_release_in_librispeechs_layout(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    librispeech(corpus, PARTS)
    tiny = {f"model.encoder.conformer.{key}": value for key, value in TINY["model"]["encoder"]["conformer"].items()}
    overrides = tiny | {
        "features.num_mel_bins": 16,
        "tokenizer.vocab_size": 40,
        "tokenizer.soft_limit": "true",
        "train.num_epochs": 2,
        "train.num_workers": 0,
        "train.batch_seconds": 20,
        "train.schedule.hold_epochs": 1,
        "bl_just.batch_seconds": 20,
        "bl_just.fine_tuning_epochs": 1,
        "bl_just.cpc.window_frames": 24,
        "bl_just.cpc.num_steps": 2,
    }
    given = {
        "--corpus-dir": corpus,
        "--unlabelled": "librispeech_860",
        "--config": ROOT / "egs/librispeech/conf/bl_just.yaml",
        "--data-dir": tmp_path / "data",
        "--exp-dir": tmp_path / "exp",
        "--processes": 1,
    }
    command = [str(ROOT / "egs/librispeech/run.sh"), *(str(word) for option in given.items() for word in option)]
    command += [f"{key}={value}" for key, value in overrides.items()]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    unlabelled = list(DataFolder(tmp_path / "data_unlabelled").read_cuts("train"))
    assert len(unlabelled) == 12 and all(cut.supervisions[0].text is None for cut in unlabelled)
    lines = read_metrics(tmp_path / "exp" / "metrics.jsonl")
    assert [line["utterances"] for line in lines] == [12, 12, 12]
    seconds = sum(cut.duration for cut in unlabelled)
    assert lines[0]["unlabelled_s"] == round(seconds, 2)  # γ is 0 in the first epoch: exploration alone
    assert lines[1]["unlabelled_s"] > lines[0]["unlabelled_s"] and lines[2]["unlabelled_s"] == 0
    assert "Losses of exp" in done.stdout and (tmp_path / "exp" / "bl_just.png").is_file()
