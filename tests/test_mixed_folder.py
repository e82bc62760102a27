"""Two hundred files as people have them, a tenth of them broken, from ``prepare --skip-bad`` to ``transcribe``."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from asrkit.data.folder import DataFolder
from asrkit.features.audio_files import resample
from tests.conftest import AN4, TINY, run_cli

RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000)
FORMATS = {
    "wav": {},
    "WAV": {"subtype": "PCM_24"},
    "flac": {},
    "ogg": {"subtype": "VORBIS"},
    "mp3": {},
    "aiff": {},
    "au": {},
    "w64": {"subtype": "FLOAT"},
    "caf": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
LIMITS = {"mp3": (8000, 48000), "opus": (8000, 48000), "ogg": (8000, 96000)}
"""Highest rates that these formats have."""


def spoil(kind: str, path: Path, x: np.ndarray) -> None:
    """Writes a file that is broken in one way."""
    if kind in ("text", "empty"):
        path.write_text("not audio" if kind == "text" else "")
        return
    changed = {
        "nan": np.where(np.arange(len(x)) == 99, np.nan, x),
        "scale": x * 32768,
        "silent": x * 0,
        "short": x[:300],
    }
    soundfile.write(path, changed.get(kind, x), 16000, subtype="FLOAT")
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-999])


REASONS = {
    "nan": "not finite",
    "scale": "off scale",
    "silent": "silent",
    "short": "less than one frame",
    "text": "cannot be decoded",
    "empty": "cannot be decoded",
    "cut": "truncated",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The corpus, and why each broken file is."""
    corpus = tmp_path_factory.mktemp("mixed")
    sources = sorted((AN4 / "wav").rglob("*.ogg"))[:200]
    rng = np.random.default_rng(0)
    text, speakers, broken = [], [], {}
    for n, source in enumerate(sources):
        samples = soundfile.read(source)[0][:24000]
        id, suffix, rate = f"u{n:03d}", list(FORMATS)[n % len(FORMATS)], RATES[n % len(RATES)]
        if n % 10 == 3:
            kind = list(REASONS)[n // 10 % len(REASONS)]
            spoil(kind, corpus / f"{id}.wav", samples)
            broken[id] = REASONS[kind]
        else:
            low, high = LIMITS.get(suffix, (0, 192000))
            rate = min(max(rate, low), high)
            if suffix == "opus":
                rate = 48000
            if suffix == "mp3" and rate == 96000:
                rate = 48000
            audio = resample(torch.from_numpy(samples).float(), 16000, rate).clamp(-1, 1).numpy()
            channels = 1 if suffix in ("mp3", "opus") else 1 + n % 6
            mixed = audio[:, None] * rng.uniform(0.2, 1.0, channels)
            soundfile.write(corpus / f"{id}.{suffix}", mixed, rate, **FORMATS[suffix])
        text.append(f"{id} WORD{'S' * (n % 2)} {'ABCDEFGHIJ'[n % 10]}")
        speakers.append(f"{id} s{n % 20}")
    if shutil.which("ffmpeg"):
        for path in [path for path in sorted(corpus.glob("*.wav")) if path.stem not in broken][:5]:
            subprocess.run(["ffmpeg", "-v", "error", "-i", path, path.with_suffix(".m4a")], check=True)
            path.unlink()
    (corpus / "text").write_text("\n".join(text))
    (corpus / "utt2spk").write_text("\n".join(speakers))
    return corpus, broken


def test_every_good_file_is_used_and_every_bad_one_named_once(
    folder: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    corpus, broken = folder
    data, exp = tmp_path / "data", tmp_path / "exp"
    done = run_cli("prepare", "folder", "--corpus-dir", corpus, "--data-dir", data, "--skip-bad")
    assert done.returncode == 0 and "excluded 20 of 200 utterances" in done.stderr, done.stderr
    assert "sampling rates differ" in done.stderr
    bad = [json.loads(line) for line in (data / "bad.jsonl").read_text().splitlines()]
    assert len(bad) == len(broken) == 20
    assert all(broken[entry["id"]] in entry["reason"] for entry in bad)
    used = [cut.id for split in ("train", "dev", "test") for cut in DataFolder(data).read_cuts(split)]
    assert sorted([*used, *broken]) == [f"u{n:03d}" for n in range(200)]

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"train": TINY["train"] | {"num_epochs": 1}}))
    config = ("--config", tmp_path / "tiny.yaml")
    stages: list[list[str | Path]] = [
        ["tokenizer", "--data-dir", data, *config],
        ["features", "--data-dir", data, *config],
        ["train", "--data-dir", data, "--exp-dir", exp, *config],
        ["decode", "--data-dir", data, "--model", exp / "averaged.safetensors", "--out-dir", exp / "decoded"],
    ]
    for words in stages:
        done = run_cli(*words)
        assert done.returncode == 0, done.stderr
    decoded = (exp / "decoded" / "hyp.trn").read_text().splitlines()
    assert len(decoded) == len(DataFolder(data).read_cuts("test"))

    heard = run_cli("transcribe", exp / "averaged.safetensors", corpus, "--json")
    lines = [json.loads(line) for line in heard.stdout.splitlines()]
    errors = {Path(line["path"]).stem for line in lines if "error" in line}
    silent = {id for id, reason in broken.items() if reason == "silent"}
    assert heard.returncode == 2 and len(lines) == 200 and errors == broken.keys() - silent
