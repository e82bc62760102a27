from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio.functional

from asrkit.bundle.model_file import save_recognizer
from asrkit.corpora.utterances import Utterance
from asrkit.errors import UserError
from asrkit.export.recognizer import Recognizer, export_model, read_audio
from tests.conftest import run_cli, tiny_bundle


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    bundle = tiny_bundle()
    with torch.no_grad():
        bundle.model.joiner.out.weight.mul_(20)  # a model with something to say
    save_recognizer(tmp_path / "checkpoint.safetensors", bundle)
    export_model(tmp_path / "checkpoint.safetensors", tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_transcribe_from_the_file_alone(model_path: Path, an4_utterances: list[Utterance], tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "model.safetensors"
    alone.parent.mkdir()
    shutil.move(model_path, alone)
    audio = [u.audio for u in an4_utterances[:2] if u.audio]
    plain = run_cli("transcribe", alone, *audio)
    assert plain.returncode == 0, plain.stderr
    lines = plain.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in audio]
    for line, path in zip(lines, audio, strict=True):
        assert line == f"{path}: {Recognizer(alone).transcribe(path).text}"
    detailed = run_cli("transcribe", alone, audio[0], "--json", "--method", "beam")
    values = json.loads(detailed.stdout)
    assert values["text"] and values["duration"] > 0
    assert " ".join(word["word"] for word in values["words"]) == values["text"]
    assert all(0 <= t < values["duration"] for t in values["token_times"])


def test_other_rates_and_channels_are_converted(tmp_path: Path) -> None:
    tone = torch.sin(torch.arange(44100) * 2 * torch.pi * 440 / 44100) * 0.5
    soundfile.write(tmp_path / "tone.flac", torch.stack([tone, tone], 1).numpy(), 44100)
    waveform = read_audio(tmp_path / "tone.flac", 16000)
    expected = torchaudio.functional.resample(tone, 44100, 16000)
    assert waveform.shape == (16000,) and (waveform - expected).abs().max() < 1e-3


def test_bad_audio_is_one_line(tmp_path: Path, model_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "empty.wav", torch.zeros(0).numpy(), 16000)
    for name, message in [
        ("none.wav", "the audio file is missing"),
        ("text.wav", "cannot be decoded"),
        ("empty.wav", "less than one frame"),
    ]:
        with pytest.raises(UserError, match=message):
            read_audio(tmp_path / name, 16000)
    run = run_cli("transcribe", model_path, tmp_path / "text.wav")
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1


def test_a_pickled_file_is_refused(model_path: Path) -> None:
    evil = model_path.with_name("evil.safetensors")
    torch.save({"x": torch.zeros(1)}, evil)
    with pytest.raises(UserError, match=r"not a readable \.safetensors"):
        Recognizer(evil)
