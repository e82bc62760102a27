"""SPHERE files compressed with shorten, read as they are and rewritten by prepare."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrkit.errors import UserError
from asrkit.features.audio_files import read_samples
from asrkit.features.listen import listen
from asrkit.features.shorten import decode_shorten
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


@pytest.mark.parametrize("claimed", [1, 100, 10**12, 0])
def test_a_header_that_claims_another_length_is_refused(claimed: int, samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    stream = path.read_bytes()[1024:]
    path.write_bytes(write_header(claimed, 2, RATE_HZ) + stream)
    assert "samples" in listen(path, "0").problem
    path.write_bytes(write_header(len(samples) + 1, 2, RATE_HZ) + stream)
    assert "it has 4867 samples where it claims 4868" in listen(path, "0").problem


def test_silence_that_no_header_counts_is_refused_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    for blocks, problem in ((5_000, "it has 1161000 samples where it claims 1000"), (200_000, "memory")):
        write_shorten(path, np.zeros((1000, 1)), RATE_HZ, silence_blocks=blocks)
        begin = time.monotonic()
        assert problem in listen(path, "0").problem
        assert time.monotonic() - begin < 60


def test_flipped_bits_are_refused_or_heard(samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    data, rng = path.read_bytes(), random.Random(0)
    problems = 0
    for n in range(30):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 10)):
            changed[rng.randrange(1040 if n % 2 else len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        begin = time.monotonic()
        problems += bool(listen(path, "0").problem)
        assert time.monotonic() - begin < 60
    assert 0 < problems < 30


def test_without_desphere_the_message_names_it(
    samples: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'asrkit[sphere]'" in listen(path, "0").problem


def test_another_suffix_and_a_header_with_spaces_are_read(samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_shorten(path, samples, RATE_HZ)
    data = path.read_bytes()
    header = data[:1024].replace(b"sample_count -i 4867\n", b"sample_count -i 4867 \n")[:1024]
    path.write_bytes(header + data[1024:])
    assert not listen(path, "0").problem


def test_a_failure_to_write_is_not_a_damaged_recording(samples: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.sph"
    write_shorten(path, samples, RATE_HZ)
    with pytest.raises(UserError, match=r"decoding .*a.sph failed: .*No such file"):
        decode_shorten(path, tmp_path / "no" / "x.wav")


def test_prepare_rewrites_them_once_and_again_when_they_change(folder_corpus: Path) -> None:
    """The prepared data are in the corpus's folder, which must not become more of the corpus."""
    for n, path in enumerate(sorted((folder_corpus / "audio").iterdir())):
        audio, rate = soundfile.read(path, always_2d=True)
        if n < 4:
            write_shorten(path.with_suffix(".sph"), audio, rate)
        else:
            soundfile.write(path.with_suffix(".wav"), audio, rate)
        path.unlink()

    def rewritten() -> dict[str, int]:
        command = ("prepare", "folder", "--corpus-dir", folder_corpus, "--data-dir", folder_corpus, "--force")
        done = run_cli(*command)
        assert done.returncode == 0, done.stderr
        places = sorted((folder_corpus / "unpacked").rglob("*.flac"))
        assert all(soundfile.info(path).samplerate == 16000 for path in places)
        return {str(path): path.stat().st_ino for path in places}

    first = rewritten()
    assert len(first) == 4 and rewritten() == first
    changed = sorted((folder_corpus / "audio").glob("*.sph"))[0]
    write_shorten(changed, soundfile.read(sorted(first)[0], always_2d=True)[0] / 2, 16000)
    assert len(rewritten().items() - first.items()) == 1
