"""From audio to text: the model learns twenty utterances by heart and says them back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from lhotse import CutSet

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import load_recognizer
from asrkit.cli.main import cli
from asrkit.config_files import config_from_dict
from asrkit.data.cut_files import read_cuts
from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import transcript
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.decode import decode_cuts
from asrkit.decoding.search import make_search
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.files import write_json
from asrkit.scoring.wer import word_error_rate
from asrkit.text.tokenizer import train_tokenizer
from asrkit.training.run import run_training
from tests.conftest import ROOT, TINY, run_cli

CONFIG: dict[str, Any] = {
    "features": {"num_mel_bins": 40},
    "spec_augment": {"probability": 0.0},
    "model": {
        "encoder": {
            "conformer": {
                "num_layers": 2,
                "d_model": 64,
                "num_heads": 4,
                "conv_kernel": 7,
                "dropout": 0.0,
                "subsampling_channels": 16,
            },
        },
        "predictor": {"embedding_dim": 32, "hidden_dim": 64, "dropout": 0.0, "embedding_dropout": 0.0},
        "joiner": {"joiner_dim": 64},
    },
    "loss": {"ctc_weight": 0.5},
    "train": {
        "num_epochs": 150,
        "batch_seconds": 20,
        "num_buckets": 2,
        "num_workers": 0,
        "dev_wer_every_epochs": 150,
        "average_epochs": 1,
        "weight_decay": 0.0,
        "schedule": {"type": "one_cycle", "initial_lr": 5e-4, "peak_lr": 3e-3, "warmup_epochs": 10},
    },
}


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_twenty_utterances_by_heart(learned: tuple[Path, Path], method: str) -> None:
    data_dir, model_path = learned
    bundle = load_recognizer(model_path)
    pipeline = build_pipeline(bundle.config, bundle.statistics)
    cuts = list(DataFolder(data_dir).read_features("train"))
    decoded = list(decode_cuts(bundle.model, pipeline, cuts, make_search(method, BeamOptions(beam=4))))
    assert len(decoded) == 20
    assert word_error_rate((transcript(cut), bundle.tokenizer.decode(nbest[0].tokens)) for cut, nbest in decoded) < 5.0


@pytest.fixture(scope="module")
def learned(an4_cuts: CutSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("by_heart")
    cuts, data = an4_cuts.subset(first=20), DataFolder(folder)
    for split in ("train", "dev"):
        make_features(cuts, split, data, sampling_rate_hz=16000, num_mel_bins=40, speed_factors=[1.0], store=True)
    data.save_statistics(compute_statistics(cuts, FeaturePipeline(num_mel_bins=40, normalization="none")))
    write_json(data.tokenizer, train_tokenizer(map(transcript, cuts), "char", 0).to_dict())
    run_training(config_from_dict(CONFIG, "tests"), folder, folder / "exp")
    return folder, folder / "exp" / "averaged.safetensors"


def test_a_users_folder_to_wer_in_one_command(folder_corpus: Path, tmp_path: Path) -> None:
    """The README's "your own corpus": run.sh on a folder, twice, then a part of it again."""
    overrides = [
        "features.num_mel_bins=16",
        "train.num_epochs=1",
        "train.num_workers=0",
        "train.schedule.warmup_epochs=0.5",
    ]
    encoder = TINY["model"]["encoder"]["conformer"]
    overrides += [f"model.encoder.conformer.{key}={value}" for key, value in encoder.items()]
    command = [
        ROOT / "egs/own_corpus/run.sh",
        "--corpus-dir",
        folder_corpus,
        "--data-dir",
        tmp_path / "data",
        "--exp-dir",
        tmp_path / "exp",
    ]

    def run(*more: str) -> str:
        done = subprocess.run([*map(str, command), *more, *overrides], capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    first = run()
    assert first.count("WER") >= 4 and (tmp_path / "exp" / "model.safetensors").is_file()
    files = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    second = run()
    assert second.count("done before") >= 12
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*")) if path.is_file()} == files
    run("--stage", "4", "--stop-stage", "5")
    for path, before in files.items():
        again = "decode_" in str(path)
        assert (path.stat().st_mtime_ns > before) == again, path
    settings: list[str | Path] = ["--config", ROOT / "egs/own_corpus/conf/conformer.yaml", *overrides]
    _what_is_done_is_not_taken_for_something_else(folder_corpus, tmp_path, settings)
    audio = sorted((folder_corpus / "audio").iterdir())[0]
    assert run_cli("transcribe", tmp_path / "exp" / "model.safetensors", audio).returncode == 0


def test_run_sh_passes_the_options_of_prepare_on(folder_corpus: Path, tmp_path: Path) -> None:
    command = [ROOT / "egs/own_corpus/run.sh", "--corpus-dir", folder_corpus, "--data-dir", tmp_path / "data"]
    options = ["--stop-stage", "1", "--text-normalization", "lower", "--max-seconds", "3"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cuts = [cut for split in ("train", "dev", "test") for cut in read_cuts(tmp_path / "data" / f"{split}.jsonl.gz")]
    assert 0 < len(cuts) < 16 and all(cut.duration <= 3 and transcript(cut).islower() for cut in cuts)


def _what_is_done_is_not_taken_for_something_else(corpus: Path, folder: Path, settings: Sequence[str | Path]) -> None:
    def asrkit(*args: str | Path) -> Result:
        return CliRunner().invoke(cli, list(map(str, args)))

    data, exp = ("--data-dir", folder / "data"), ("--exp-dir", folder / "exp")
    decode = [
        "decode",
        *data,
        "--model",
        folder / "exp" / "averaged.safetensors",
        "--out-dir",
        folder / "exp" / "decode_test_greedy",
        *settings,
        "decode.method=greedy",
    ]
    elsewhere = shutil.copytree(corpus, folder / "elsewhere")
    (elsewhere / "text").write_text((elsewhere / "text").read_text().replace("ONE", "WON"))
    for words, key in (
        (["prepare", "folder", "--corpus-dir", elsewhere, *data], "files.list.text"),
        (["tokenizer", *data, *settings, "tokenizer.type=bpe"], "tokenizer.type"),
        (["features", *data, *settings, "features.speed_factors=[1.0]"], "features.speed_factors"),
        (["train", *data, *exp, *settings, "train.seed=2"], "train.seed"),
        ([*decode, "decode.blank_penalty=0.5"], "decode.blank_penalty"),
    ):
        refused = asrkit(*words).exception
        assert isinstance(refused, UserError) and f"{key}=" in str(refused) and "now it is" in str(refused)
    assert asrkit(*decode).exit_code == 0
    longer = asrkit("train", *data, *exp, *settings, "train.num_epochs=2")
    assert longer.exit_code == 0 and "resuming at epoch 2" in longer.output, longer.output
    assert "digest of model" in str(asrkit(*decode).exception)
