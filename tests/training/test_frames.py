"""From a recognizer's alignments to an acoustic model, and to a transducer that starts from it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import asrkit
from asrkit.bundle.model_file import load_recognizer
from asrkit.cli.main import cli
from asrkit.data.alignments import read_alignments
from asrkit.data.folder import DataFolder
from asrkit.data.index import open_index
from asrkit.errors import UserError
from asrkit.scoring.experiment import read_metrics
from asrkit.training.frames import frame_objective
from asrkit.training.objective import TransducerObjective
from asrkit.training.schedules import learning_rate
from tests.conftest import Workshop

FRAMES = ("loss.frame_epochs=-1", "train.dev_measure=frame_error", "loss.frame_projection=8")


@pytest.fixture(scope="module")
def aligned(workshop: Workshop) -> DataFolder:
    """The workshop's data with alignments by a transducer."""
    workshop.finish("aligner")
    model = workshop.folder / "aligner" / "averaged.safetensors"
    frames = workshop.folder / "frames_of_speech"
    command = ["align", "--model", str(model), "--data-dir", str(workshop.data_dir), "--frames", str(frames)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0 and "aligned 24 utterances of train" in result.output
    again = CliRunner().invoke(cli, command, catch_exceptions=False)
    written = load_file(frames / "frames.safetensors")
    assert written["x"].shape == (len(written["y"]), 9 * 16) and written["y"].max() < 28
    assert "aligned 24" not in again.output and len(written["y"]) > 100
    return DataFolder(workshop.data_dir)


def test_labels_are_in_order_and_within_the_utterance(workshop: Workshop, aligned: DataFolder) -> None:
    tokenizer = load_recognizer(workshop.folder / "aligner" / "averaged.safetensors").tokenizer
    index, found = open_index(aligned, "train", tokenizer), read_alignments(aligned.alignments("train"))
    for number, cut in enumerate(index):
        starts = found.starts([cut.id], [int(index.num_tokens[number])])[0]
        assert len(starts) and (starts.diff() >= 0).all() and starts[0] >= 0 and starts[-1] <= cut.duration


def test_frames_are_learnt(workshop: Workshop, aligned: DataFolder) -> None:
    printed = workshop.finish("frames", *FRAMES)
    lines = read_metrics(workshop.folder / "frames" / "metrics.jsonl")
    assert [line["dev_frame_error"] > 0 for line in lines] == [True] * 3 and "dev FRAME_ERROR" in printed
    losses = [line["loss"]["frames"] for line in lines]
    assert losses[-1] < losses[0] < 2 * torch.tensor(28.0).log().item()
    assert 0 < lines[-1]["loss"]["frame_error"] < 1
    workshop.finish("frames2", *FRAMES, processes=2)
    two = read_metrics(workshop.folder / "frames2" / "metrics.jsonl")
    assert two[-1]["dev_frame_error"] == pytest.approx(lines[-1]["dev_frame_error"], abs=1.0)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_transducer_follows_in_the_same_training(workshop: Workshop, aligned: DataFolder, processes: int) -> None:
    settings = "loss.frame_epochs=1", "loss.ctc_only_epochs=1"
    printed = workshop.finish(f"frames_first{processes}", *settings, processes=processes)
    phases = re.findall(r"epoch \d: loss [\d.]+ ?(?:\(([^)]*)\))?", printed)
    assert ["frames" in phases[0], "frames" in phases[1], "transducer" in phases[2]] == [True, False, True]


def test_changed_alignments_are_another_experiment(workshop: Workshop, aligned: DataFolder) -> None:
    path = aligned.alignments("dev")
    before = path.read_bytes()
    shutil.copy(aligned.alignments("train"), path)
    process = workshop.start("frames", *FRAMES)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "digest of alignments of dev" in printed
    path.write_bytes(before)
    record = path.with_name(f"{path.name}.inputs.json")
    kept = record.read_text()
    record.write_text(kept.replace('"digest of tokenizer": "', '"digest of tokenizer": "0'))
    process = workshop.start("frames_of_others", *FRAMES)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "is of other data (digest of tokenizer differs)" in printed
    record.write_text(kept)


def test_an_acoustic_model_is_not_decoded_and_may_be_trained_for_longer(
    workshop: Workshop, aligned: DataFolder
) -> None:
    workshop.finish("frames_longer", *FRAMES, "train.num_epochs=1")
    assert "resuming at epoch 2" in workshop.finish("frames_longer", *FRAMES, "train.num_epochs=2")
    with pytest.raises(UserError, match="classifies frames"):
        asrkit.decode(workshop.folder / "frames_longer" / "averaged.safetensors", workshop.data_dir, "dev")


def test_settings_under_which_alignments_do_not_hold(workshop: Workshop, aligned: DataFolder) -> None:
    config = workshop.config(dev_measure="frame_error")
    config.loss.frame_epochs = 3
    config.length_perturbation.drop_probability = 0.5
    model = load_recognizer(workshop.folder / "aligner" / "averaged.safetensors").model
    with pytest.raises(UserError, match="switch off length_perturbation"):
        frame_objective(config, TransducerObjective(config.loss, model), model, aligned, 0.01)
    process = workshop.start("frames_too_short", "loss.frame_epochs=2", "train.dev_measure=frame_error")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "needs loss.frame_epochs=-1" in printed


def test_the_papers_model_has_its_size() -> None:
    from asrkit.bundle.build import build_transducer
    from asrkit.config_files import load_config
    from asrkit.models.transducer import num_parameters
    from tests.conftest import ROOT

    config = load_config(ROOT / "conf" / "model" / "hybrid_blstm.yaml", ())
    model = build_transducer(config, 46)
    assert json.dumps([model.encoder.output_dim, model.encoder.subsampling]) == "[1024, 1]"
    encoder = num_parameters(model.encoder)
    states = 1024 * 256 + 256 + 256 * 32000 + 32000  # projection and softmax over the paper's 32,000 states
    assert encoder + states == pytest.approx(43e6, rel=0.05)  # about 43 M in the paper
    large = ("train.schedule.peak_lr=3.2", "train.schedule.warmup_epochs=10", "train.schedule.hold_epochs=1")
    schedule = load_config(ROOT / "conf" / "model" / "hybrid_blstm.yaml", large).train.schedule
    rates = [learning_rate(schedule, epoch, 0.0, 16) for epoch in range(1, 17)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(3.2)
    assert [rate / 3.2 for rate in rates[11:]] == pytest.approx([2 ** (-j / 2) for j in range(1, 6)])
