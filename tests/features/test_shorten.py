"""SPHERE files compressed with shorten, read as they are and rewritten by prepare."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrkit.features.audio_files import read_samples
from asrkit.features.listen import listen
from tests.conftest import run_cli
from tests.corpora.shorten import BLOCK_SAMPLES, write_header, write_shorten

RATE_HZ = 8000


@pytest.fixture
def samples() -> np.ndarray:
    """(N, 2) correlated noise, not a whole number of blocks."""
    walk = np.cumsum(np.random.default_rng(0).normal(size=(19 * BLOCK_SAMPLES + 3, 2)), axis=0)
    return walk / np.abs(walk).max()


def test_samples_are_exact_in_full_and_in_part(samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    expected = np.round(samples * 32767) / 32768
    full, rate = read_samples(path)
    assert rate == RATE_HZ and np.array_equal(full, expected)
    heard = listen(path, "1")
    assert not heard.problem and heard.num_samples == len(samples) and heard.num_channels == 2
    part, _ = read_samples(path, 0.1, 0.2)
    assert np.array_equal(part, expected[800:2400])


@pytest.mark.parametrize("cut", [900, 1100, -4000])
def test_a_truncated_file_is_refused(cut: int, samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    path.write_bytes(path.read_bytes()[:cut])
    assert "cannot be decoded" in listen(path, "0").problem


def test_a_header_that_claims_more_or_less_is_refused(samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    stream = path.read_bytes()[1024:]
    for claimed in (len(samples) + 1, 10**12, 0):
        path.write_bytes(write_header(claimed, 2, RATE_HZ) + stream)
        assert "samples" in listen(path, "0").problem


def test_a_small_file_with_endless_silence_is_refused_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, np.zeros((1000, 1)), RATE_HZ, silence_blocks=200_000)
    begin = time.monotonic()
    assert "more than the 1000 samples that it claims" in listen(path, "0").problem
    assert time.monotonic() - begin < 10


def test_without_desphere_the_message_names_it(
    samples: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'desphere[fast]'" in listen(path, "0").problem


def test_prepare_rewrites_them_once_and_again_when_they_change(folder_corpus: Path, tmp_path: Path) -> None:
    for n, path in enumerate(sorted((folder_corpus / "audio").iterdir())):
        audio, rate = soundfile.read(path, always_2d=True)
        if n < 4:
            write_shorten(path.with_suffix(".sph"), audio, rate)
        else:
            soundfile.write(path.with_suffix(".wav"), audio, rate)
        path.unlink()
    data = tmp_path / "data"
    command = ("prepare", "folder", "--corpus-dir", folder_corpus, "--data-dir", data, "--num-jobs", "2")
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    rewritten = {path: path.stat().st_ino for path in (data / "audio").iterdir()}
    assert len(rewritten) == 4 and all(soundfile.info(path).samplerate == 16000 for path in rewritten)
    assert run_cli(*command, "--force").returncode == 0
    assert {path: path.stat().st_ino for path in (data / "audio").iterdir()} == rewritten
    changed = sorted((folder_corpus / "audio").glob("*.sph"))[0]
    write_shorten(changed, soundfile.read(next(iter(sorted(rewritten))), always_2d=True)[0] / 2, 16000)
    shutil.copystat(folder_corpus, changed)
    assert run_cli(*command, "--force").returncode == 0
    new = {path: path.stat().st_ino for path in (data / "audio").iterdir()}
    assert new.keys() == rewritten.keys() and len(new.items() - rewritten.items()) == 1
