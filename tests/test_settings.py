"""Settings are declared once, and what nothing reads is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from asrkit.config import Config
from asrkit.config_files import config_to_dict, config_to_yaml, load_config
from asrkit.errors import UserError
from asrkit.settings import holds, settings_of
from asrkit.training.inputs import is_finished, start_training
from tests.conftest import ROOT


def test_every_setting_says_what_it_means_and_every_number_has_a_range() -> None:
    for item in settings_of(Config()):
        assert item.rule.meaning.endswith("."), item.key
        numbers = item.value if isinstance(item.value, list) else [item.value]
        if any(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers) and not item.rule.choices:
            assert item.rule.least is not None, item.key


def test_conditions_name_settings_and_can_hold() -> None:
    known = {item.key: item.value for item in settings_of(Config())} | {"command": "train"}
    for item in settings_of(Config()):
        for condition in item.conditions:
            holds(condition, known)  # of a setting that there is
    assert holds("model.encoder.type=conformer|dssformer", known) and not holds("loss.prune_range>0", known)


@pytest.mark.parametrize(
    ("overrides", "command", "message"),
    [
        (
            ["model.encoder.blstm.cells=3"],
            "train",
            r"cells is given, .* model\.encoder\.type=blstm; .* conformer",
        ),
        (["model.encoder.type=blstm", "model.encoder.conformer.d_model=8"], "train", "conformer or dssformer"),
        (["model.encoder.conformer.conv_kernel=7", "model.encoder.type=dssformer"], "train", "type=conformer"),
        (["decode.beam=4"], "train", r"decode\.beam is given, .* decode\.method is greedy"),
        (["decode.full_sum=false", "decode.method=modified_beam"], "train", "only with decode.method=beam"),
        (["tokenizer.vocab_size=90"], "train", "tokenizer.type=unigram or bpe"),
        (["loss.simple_weight=0.3"], "train", r"only with loss\.prune_range>0; loss\.prune_range is 0"),
        (["train.schedule.type=one_cycle", "train.schedule.hold_epochs=2"], "train", "warmup_hold_anneal"),
        (["train.batch_seconds=9"], "train-lm", "only with command=train; command is train-lm"),
        (["train.num_workers=0"], "train-lm", "only with command=train"),
        (["lm.num_heads=2"], "train-lm", r"only with lm\.type=transformer"),
        (["train.optimizer.momentum=0.5"], "train", r"only with train\.optimizer\.type=sgd"),
    ],
)
def test_settings_that_nothing_reads_are_refused(overrides: list[str], command: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config(None, overrides, command=command)
    assert "\n" not in str(caught.value)


def test_a_preset_that_a_higher_layer_replaces_passes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {encoder: {conformer: {d_model: 8}}}\n")
    (tmp_path / "top.yaml").write_text("include: [base.yaml]\nmodel: {encoder: {type: blstm}}\ndecode: {beam: 4}\n")
    assert load_config(tmp_path / "top.yaml", reads=("model",)).model.encoder.type == "blstm"
    with pytest.raises(UserError, match=r"decode\.beam is given"):
        load_config(tmp_path / "top.yaml", reads=("decode",))
    final = {"decode.method": "greedy"}  # of the command's own option: whatever else is chosen
    assert load_config(tmp_path / "top.yaml", reads=("decode",), final=final).decode.beam == 4
    (tmp_path / "both.yaml").write_text("model: {encoder: {type: blstm, conformer: {d_model: 8}}}\n")
    with pytest.raises(UserError, match=r"conformer\.d_model is given"):
        load_config(tmp_path / "both.yaml")


def test_what_is_written_beside_a_training_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {encoder: {conformer: {d_model: 8}}}\n")
    (tmp_path / "top.yaml").write_text("include: [base.yaml]\nmodel: {encoder: {type: blstm, blstm: {cells: 7}}}\n")
    config = load_config(tmp_path / "top.yaml", ["train.seed=7"])
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    again = load_config(tmp_path / "again.yaml")
    assert again.model.encoder.blstm == config.model.encoder.blstm and again.train == config.train
    assert "d_model" not in config_to_yaml(config)
    # The record of the training does not know the preset either, so that it is resumed with both.
    exp = tmp_path / "exp"
    start_training(config, exp, "averaged.safetensors")
    (exp / "checkpoints").mkdir()
    (exp / "checkpoints" / "epoch-0001.safetensors").touch()
    start_training(again, exp, "averaged.safetensors")
    again.model.encoder.blstm.cells = 9
    with pytest.raises(UserError, match="cells=7, now it is 9"):
        start_training(again, exp, "averaged.safetensors")


def test_a_complete_description_of_version_1_is_read(tmp_path: Path) -> None:
    """It gave every setting, those that nothing read too."""
    values = config_to_dict(load_config(None, ["model.encoder.type=blstm"]))
    values["model"]["encoder"]["conformer"]["num_layers"] = 8
    del values["rewrites"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert load_config(tmp_path / "config.yaml").model.encoder.type == "blstm"
    with pytest.raises(UserError, match=r"decode\.beam is given"):
        load_config(tmp_path / "config.yaml", ["decode.beam=3"])


def test_a_damaged_model_is_no_finished_training(tmp_path: Path) -> None:
    config = load_config(None)
    (tmp_path / "averaged.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"averaged\.safetensors cannot be read"):
        is_finished(config, tmp_path, "averaged.safetensors")


def test_the_page_is_up_to_date() -> None:
    assert subprocess.run([sys.executable, ROOT / "tools" / "settings_page.py", "--check"]).returncode == 0
