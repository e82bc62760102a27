"""Many recordings: which are found, what a bad one does, and the forms that text is written in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asrkit.bundle.model_file import save_recognizer
from asrkit.errors import UserError
from asrkit.export.recognizer import Recognizer, Transcript
from asrkit.export.transcripts import as_ctm, as_json, as_srt, as_vtt, cues, output_paths, recordings
from tests.conftest import AN4, run_cli, tiny_bundle

WORDS = [
    {"word": "HELLO", "time": 0.0, "end": 0.4, "confidence": 0.9},
    {"word": "<THERE>", "time": 0.5, "end": 0.9, "confidence": 0.8},
    {"word": "AGAIN", "time": 3.0, "end": 3.5, "confidence": 1.0},
]
SAID = Transcript("a b.wav", "HELLO <THERE> AGAIN", 4.0, {"score": -1.0, "words": WORDS}, ("the audio is clipped",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tiny_bundle()
    with torch.no_grad():
        bundle.model.joiner.out.weight.mul_(20)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_recognizer(path, bundle)
    return path


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    (folder / "sub").mkdir(parents=True)
    source = next((AN4 / "wav").rglob("*.ogg"))
    samples, rate = soundfile.read(source)
    soundfile.write(folder / "good.wav", samples, rate)
    soundfile.write(folder / "stereo.flac", np.stack([samples, samples], 1), rate)
    soundfile.write(folder / "sub" / "quiet.wav", samples * 0, rate)
    (folder / "text.wav").write_text("not audio")
    (folder / "._good.wav").write_bytes(b"\0")
    return folder


def test_forms() -> None:
    assert cues(WORDS) == [(0.0, 0.9, "HELLO <THERE>"), (3.0, 3.5, "AGAIN")]
    assert as_srt(SAID).startswith("1\n00:00:00,000 --> 00:00:00,900\nHELLO <THERE>\n\n2\n00:00:03,000 --> ")
    assert as_vtt(SAID).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.900\nHELLO &lt;THERE>\n")
    assert as_ctm(SAID).splitlines()[0] == "a_b 1 0.00 0.40 HELLO 0.9"
    values = json.loads(as_json(SAID))
    assert values["path"] == "a b.wav" and values["warnings"] == ["the audio is clipped"] and values["words"] == WORDS
    long = [{"word": "WORD", "time": 0.3 * n, "end": 0.3 * n + 0.2, "confidence": 1.0} for n in range(100)]
    assert all(end - begin <= 6 and len(text) <= 80 for begin, end, text in cues(long))
    assert " ".join(text for _, _, text in cues(long)).split() == ["WORD"] * 100


def test_files_folders_and_lists_are_found(audio: Path, tmp_path: Path) -> None:
    names = [name.as_posix() for _, name in recordings([audio])]
    assert names == ["good.wav", "stereo.flac", "text.wav", "sub/quiet.wav"]
    (tmp_path / "files.lst").write_text("audio/good.wav\r\n\nid1 audio/stereo.flac\n")
    assert [path for path, _ in recordings([tmp_path / "files.lst"])] == [audio / "good.wav", audio / "stereo.flac"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio in the folder"):
        recordings([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"two recordings would be written to .*a\.srt"):
        output_paths([Path("a.wav"), Path("a.flac")], tmp_path, ".srt")


def test_one_bad_file_does_not_end_the_others(model: Path, audio: Path) -> None:
    paths = [audio / "good.wav", audio / "text.wav", audio / "stereo.flac", audio / "none.wav", audio / "sub/quiet.wav"]
    done = run_cli("transcribe", model, *paths)
    text = Recognizer(model).transcribe(audio / "good.wav").text
    assert done.returncode == 2 and "Traceback" not in done.stderr
    good, stereo, quiet = done.stdout.splitlines()
    assert good == f"{paths[0]}: {text}" and stereo == f"{paths[2]}: {text}" and quiet == f"{paths[4]}: "
    errors = done.stderr.splitlines()
    assert "text.wav: the audio cannot be decoded" in errors[0] and "none.wav: the audio file is missing" in errors[1]
    assert "the audio is silent" in errors[2] and errors[3] == "asrkit: 2 of 5 recordings could not be transcribed"
    lines = [json.loads(line) for line in run_cli("transcribe", model, audio, "--json").stdout.splitlines()]
    assert [("error" in line) for line in lines] == [False, False, True, False]
    assert all(word["end"] >= word["time"] for line in lines for word in line.get("words", []))


def test_files_are_written_next_to_each_other(model: Path, audio: Path, tmp_path: Path) -> None:
    listed = f"{audio / 'good.wav'}\n{audio / 'sub' / 'quiet.wav'}\n"
    command = [
        sys.executable,
        "-m",
        "asrkit",
        "transcribe",
        model,
        "-",
        "--format",
        "vtt",
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(list(map(str, command)), input=listed, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.vtt", "quiet.vtt"}
    assert (tmp_path / "out" / "quiet.vtt").read_text() == "WEBVTT\n\n"
    refused = run_cli("transcribe", model, audio, "--format", "srt")
    assert refused.returncode == 2 and "--output" in refused.stderr
    sides = run_cli("transcribe", model, audio / "stereo.flac", "--channel", "split")
    assert [line.split(": ")[0] for line in sides.stdout.splitlines()] == [
        f"{audio / 'stereo.flac'} channel 0",
        f"{audio / 'stereo.flac'} channel 1",
    ]


@pytest.mark.parametrize("method", ["greedy", "beam", "modified_beam"])
def test_samples_that_are_no_speech_are_refused_by_every_search(method: str, model: Path, tmp_path: Path) -> None:
    for value in (np.nan, np.inf, 3e38):
        samples = np.random.default_rng(0).normal(0, 0.1, 16000)
        samples[5000] = value
        soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
        with pytest.raises(UserError, match="cannot transcribe"):
            Recognizer(model, method, 2).transcribe(tmp_path / "x.wav")


def test_a_long_recording_gives_the_text_of_its_waveform(model: Path, tmp_path: Path) -> None:
    """Eighty seconds in windows, from a file and from memory."""
    pieces = [soundfile.read(path)[0] for path in sorted((AN4 / "wav").rglob("*.ogg"))[:40]]
    samples = np.concatenate(pieces)[: 80 * 16000].astype(np.float32)
    soundfile.write(tmp_path / "long.flac", samples, 16000)
    recognizer = Recognizer(model)
    waveform = torch.from_numpy(soundfile.read(tmp_path / "long.flac", dtype="float32")[0])
    transcript = recognizer.transcribe(tmp_path / "long.flac")
    assert transcript.duration_s == round(len(waveform) / 16000, 3) > 65
    assert transcript.text == recognizer.bundle.tokenizer.decode(recognizer.recognize(waveform).tokens)


MEASURE = """
import resource, sys
from asrkit.export.recognizer import Recognizer
recognizer = Recognizer(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    recognizer.transcribe(path)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Twenty minutes need hardly more than two: features and search go window by window."""
    bundle = tiny_bundle()
    with torch.no_grad():
        bundle.model.joiner.out.bias[0] += 10  # a model with nothing to say
    model = tmp_path / "model.safetensors"
    save_recognizer(model, bundle)
    once = np.concatenate([soundfile.read(path)[0] for path in sorted((AN4 / "wav").rglob("*.ogg"))[:20]])
    for minutes in (2, 20):
        samples = np.resize(once, minutes * 60 * 16000)
        soundfile.write(tmp_path / f"{minutes}.wav", samples, 16000)
    command = [sys.executable, "-c", MEASURE, model, tmp_path / "2.wav", tmp_path / "20.wav"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=True)
    short, long = map(int, done.stdout.split())
    assert long - short < 40, (short, long)  # MB; the samples alone are 77
    shutil.rmtree(tmp_path)
