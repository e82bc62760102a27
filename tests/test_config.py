from __future__ import annotations

from pathlib import Path

import pytest

from asrkit.config_files import config_from_dict, config_to_dict, config_to_yaml, load_config
from asrkit.errors import UserError
from tests.conftest import ROOT


def test_includes_merge_below_and_overrides_above(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {seed: 5, num_epochs: 7}\n")
    (tmp_path / "top.yaml").write_text("include: [base.yaml, model/conformer_3m.yaml]\ntrain: {num_epochs: 8}\n")
    config = load_config(tmp_path / "top.yaml", ["train.batch_seconds=12", "features.speed_factors=[0.9, 1.0]"])
    assert (config.train.seed, config.train.num_epochs, config.train.batch_seconds) == (5, 8, 12.0)
    assert config.model.encoder.conformer.d_model == 144 and config.features.speed_factors == [0.9, 1.0]


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = load_config(ROOT / "egs/an4/conf/conformer.yaml")
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config
    assert config_from_dict(config_to_dict(config), "dict") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.num_epoch=3", r"unknown key 'train\.num_epoch'; did you mean 'train\.num_epochs'"),
        ("modle.encoder.d_model=3", "unknown key 'modle'; did you mean 'model'"),
        ("train.num_epochs=many", r"key 'train\.num_epochs': .*many"),
        ("train=3", "'train' must be a mapping"),
        ("1=2", "unknown key '1'"),
        ("train.optimizer.groups=[1]", r"key '\?'|groups"),
        ("train.autocast=fp8", r"train\.autocast is 'fp8'; choose one of auto, none, bf16, fp16"),
        ("num_epochs", "not of the form key=value"),
        ("model.encoder.conformer.dropout=1.5", "dropout is 1.5; it must be between 0 and 0.99"),
        ("spec_augment.probability=-1", "must be between 0 and 1"),
        ("decode.beam=0", "must be between 1 and 10000"),
        ("decode.score_margin=-1", "must be 0 or more"),
        ("train.batch_seconds=0", "must be 0.01 or more"),
        ("features.speed_factors=[1.0,0]", "speed_factors is 0; it must be between 0.1 and 10"),
        ("train.max_grad_norm=.inf", "not a finite number"),
        ("train.schedule.peak_lr=.nan", "not a finite number"),
        ("train.schedule.peak_lr=1e9", "must be between 0 and 1000"),
        ("model.encoder.conformer.num_layers=10000000", "must be between 1 and 1000"),
        ("train.init_from=${oc.env:HOME}", "not valid YAML|evaluated"),
        ("model.predictor.num_layers=0", "must be between 1 and 1000"),
    ],
)
def test_mistakes_are_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("train:\n  seed: [1\n")
    (tmp_path / "lost.yaml").write_text("include: [nowhere.yaml]\n")
    (tmp_path / "loop.yaml").write_text("include: [loop.yaml]\n")
    (tmp_path / "latin.yaml").write_bytes("# Gr\u00f6\u00dfe".encode("latin-1"))
    for name, message in [
        ("broken.yaml", "line 3: not valid YAML"),
        ("lost.yaml", "'nowhere.yaml' is neither at"),
        ("loop.yaml", "includes itself"),
        ("latin.yaml", "latin.yaml is not UTF-8 text"),
        ("none.yaml", "cannot read the configuration"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            load_config(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_every_recipe_configuration_is_valid() -> None:
    paths = [path for path in sorted((ROOT / "egs").glob("*/conf/*.yaml")) if path.parts[-3] != "pcas"]
    assert paths
    for path in paths:
        assert load_config(path).train.num_epochs > 0


def test_merge_keys_of_yaml_are_read(tmp_path: Path) -> None:
    (tmp_path / "me.yaml").write_text("train: &x {seed: 3, num_epochs: 4}\n")
    (tmp_path / "merged.yaml").write_text("train:\n  optimizer: &o {type: sgd}\n  schedule: {<<: {peak_lr: 0.5}}\n")
    assert load_config(tmp_path / "merged.yaml").train.schedule.peak_lr == 0.5


@pytest.mark.parametrize(
    "text, message",
    [
        ("train: {seed: 1, seed: 2}\n", "'seed' is there twice"),
        ("train: {seed: 1}\ntrain: {seed: 2}\n", "'train' is there twice"),
        ("a: &x0 [x, x]\n" + "".join(f"a{n}: &x{n + 1} [*x{n}, *x{n}]\n" for n in range(24)), "more than 20000 values"),
        ("[" * 3000, "nested too deep|not valid YAML"),
        ("train: {init_from: '${oc.env:HOME}'}\n", "would have to be evaluated"),
        ("include: 5\n", "must be a list of files, not 5"),
        ("include: [[a]]\n", "must be a list of files"),
        ("include: [me.yaml]\n", "includes itself"),
        ("? [a]\n: b\n", "not valid YAML"),
        ("!!python/object/apply:os.system [true]\n", "not valid YAML"),
    ],
)
def test_hostile_yaml_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "me.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path / "me.yaml")
    assert "\n" not in str(caught.value)
