"""A recognizer and its language models at 4 bits in one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from asrkit.bundle.build import build_language_model, build_transducer
from asrkit.bundle.model_file import (
    FusedModels,
    ModelBundle,
    load_recognizer,
    save_language_model,
    save_recognizer,
    tensors_digest,
)
from asrkit.cli.main import cli
from asrkit.config import DecodeConfig, FusionConfig
from asrkit.config_files import config_from_dict
from asrkit.data.folder import DataFolder
from asrkit.decoding.search import build_search
from asrkit.errors import UserError
from asrkit.export.int4 import export_int4
from asrkit.export.recognizer import Recognizer
from asrkit.quantization.integer import IntegerLstmLayer
from asrkit.scoring.nist import read_trn
from tests.conftest import Workshop, tiny_bundle


@pytest.fixture
def models(workshop: Workshop, tmp_path: Path) -> Path:
    """A float recognizer that says something, and two language models."""
    bundle = tiny_bundle()
    bundle.tokenizer = DataFolder(workshop.data_dir).load_tokenizer()
    torch.manual_seed(0)
    bundle.model = build_transducer(bundle.config, bundle.tokenizer.vocab_size).eval()
    with torch.no_grad():
        bundle.model.joiner.out.weight.mul_(20)
        bundle.model.joiner.out.bias[0] += 2
    save_recognizer(tmp_path / "float.safetensors", bundle)
    config = config_from_dict({"lm": {"hidden_dim": 16, "num_layers": 1, "bottleneck_dim": 8}}, "tests")
    for name in ("source", "target"):
        lm = build_language_model(config, bundle.tokenizer.vocab_size)
        save_language_model(tmp_path / f"{name}.safetensors", ModelBundle(lm, config, bundle.tokenizer))
    return tmp_path


def export(workshop: Workshop, models: Path, *more: str) -> Result:
    words = ["export", "--int4", "--model", models / "float.safetensors", "--output", models / "int4.safetensors"]
    return CliRunner().invoke(cli, [*map(str, words), "--data-dir", str(workshop.data_dir), *more])


def test_one_file_decodes_as_the_data_folder_does(workshop: Workshop, models: Path) -> None:
    fusion = [
        f"decode.fusion.target_lm={models / 'target.safetensors'}",
        f"decode.fusion.source_lm={models / 'source.safetensors'}",
        "decode.fusion.target_weight=0.5",
        "decode.fusion.source_weight=0.3",
    ]
    done = export(workshop, models, "--max-wer-loss", "100", "decode.method=beam", "decode.beam=4", *fusion)
    assert not done.exception, done.output
    assert "WER of dev: " in done.output and done.output.count("ratio") == 3
    bundle = load_recognizer(models / "int4.safetensors")
    assert bundle.fused is not None and sorted(bundle.fused.models) == ["source", "target"]
    assert bundle.fused.fusion.target_weight == 0.5 and not bundle.fused.fusion.target_lm
    out = models / "decoded"
    words = ["decode", "--model", models / "int4.safetensors", "--data-dir", workshop.data_dir, "--split", "dev"]
    decoded = CliRunner().invoke(cli, [*map(str, [*words, "--out-dir", out]), "decode.method=beam", "decode.beam=4"])
    assert not decoded.exception, decoded.output
    texts = read_trn(out / "hyp.trn", case_sensitive=True)
    recognizer = Recognizer(models / "int4.safetensors", "beam", 4)
    assert recognizer.search.fusion is not None and recognizer.search.fusion.target is not None
    assert isinstance(recognizer.search.fusion.target.layers[0], IntegerLstmLayer)
    cuts = list(DataFolder(workshop.data_dir).read_features("dev"))
    heard = {cut.id: recognizer.transcribe(cut.recording.sources[0].source).text for cut in cuts}
    assert any(heard.values())
    assert heard == {key.split("-", 1)[1]: text for key, (_, text) in texts.items()}
    # Tuning starts without them, whatever the file brings.
    zero = DecodeConfig(method="beam", fusion=FusionConfig(target_lm="given.safetensors"))
    assert build_search(zero, bundle, torch.device("cpu")).fusion is None
    # A file that is exported again keeps its language models.
    again = CliRunner().invoke(
        cli, ["export", "--model", str(models / "int4.safetensors"), "--output", str(models / "again.safetensors")]
    )
    assert not again.exception
    first, second = (load_file(models / f"{name}.safetensors") for name in ("int4", "again"))
    assert tensors_digest(first) == tensors_digest(second)


def test_a_file_that_loses_too_much_is_not_written(workshop: Workshop, models: Path) -> None:
    folder, target = DataFolder(workshop.data_dir), models / "int4.safetensors"
    # It would have to gain a thousand points.
    with pytest.raises(UserError, match=r"int4\.safetensors is not written: on dev it costs .* points of WER"):
        export_int4(models / "float.safetensors", target, folder, "dev", DecodeConfig(), max_wer_loss=-1000)
    assert not target.exists() and not list(models.glob(".tmp*"))


def test_another_kind_of_export_is_not_done_before(workshop: Workshop, models: Path) -> None:
    source, target = str(models / "float.safetensors"), str(models / "int4.safetensors")
    assert not CliRunner().invoke(cli, ["export", "--model", source, "--output", target]).exception
    refused = export(workshop, models, "--max-wer-loss", "100")
    assert isinstance(refused.exception, UserError) and "--int4=False, now it is True" in str(refused.exception)


@pytest.mark.parametrize(
    "fusion",
    [
        "{",
        "[]",
        "{}",
        "null",
        '{"weights": {}, "models": []}',
        '{"weights": {"target_weight": "much"}, "models": {}}',
        '{"weights": {"target_weight": 1.0}, "models": {}}',
        '{"weights": {}, "models": {"third": {}}}',
    ],
)
def test_damaged_language_models_are_refused(models: Path, fusion: str) -> None:
    bundle = load_recognizer(models / "float.safetensors")
    bundle.fused = FusedModels(FusionConfig(), {})
    save_recognizer(models / "fused.safetensors", bundle)
    with safe_open(models / "fused.safetensors", framework="pt") as file:
        header = file.metadata() | {"fusion": fusion}
    save_file(load_file(models / "fused.safetensors"), models / "fused.safetensors", header)
    with pytest.raises(UserError, match="is damaged: its"):
        load_recognizer(models / "fused.safetensors")


def test_what_it_needs_is_said(workshop: Workshop, models: Path) -> None:
    source, target = str(models / "float.safetensors"), str(models / "int4.safetensors")
    for words, message in (
        (["--int4"], "fewer bits need --data-dir"),
        (["decode.beam=4"], "only an export with fewer bits is tested"),
        (["--against", source], "only an export with fewer bits is tested"),
    ):
        done = CliRunner().invoke(cli, ["export", "--model", source, "--output", target, *words])
        assert isinstance(done.exception, UserError) and message in str(done.exception)
