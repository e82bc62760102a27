from __future__ import annotations

from pathlib import Path

import pytest

import asrkit
from asrkit.errors import UserError
from tests.conftest import Workshop


def test_train_decode_score(workshop: Workshop, tmp_path: Path) -> None:
    model = asrkit.train(workshop.config_path, str(workshop.data_dir), tmp_path / "exp", "train.num_epochs=1")
    assert model == tmp_path / "exp" / "averaged.safetensors" and model.is_file()
    before = model.stat().st_mtime_ns
    assert asrkit.train(workshop.config_path, workshop.data_dir, tmp_path / "exp", "train.num_epochs=1") == model
    assert model.stat().st_mtime_ns == before  # done before
    found = asrkit.decode(model, workshop.data_dir, "dev")
    assert len(found) == 6 and all(one.reference for one in found)
    beam = asrkit.decode(asrkit.load(model), workshop.data_dir, "dev", "decode.method=beam", "decode.nbest=2")
    assert {one.id for one in beam} == {one.id for one in found} and all(len(one.hypotheses) <= 2 for one in beam)
    rates = asrkit.score((one.reference, one.text) for one in found)
    assert rates["utterances"] == 6 and rates["wer"]["reference"] == sum(len(one.reference.split()) for one in found)


def test_errors_are_the_users() -> None:
    with pytest.raises(UserError, match="beem"):
        asrkit.decode("model.safetensors", "data", "dev", "decode.beem=4")
    with pytest.raises(UserError):
        asrkit.load("nothing.safetensors")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        asrkit.trian  # noqa: B018


def test_scores_are_the_commands() -> None:
    found = asrkit.score([("A b C", "a B c"), ("d e", "d")])
    assert (found["wer"]["errors"], found["wer"]["reference"]) == (1, 5) and found["wer"]["deletions"] == 1
