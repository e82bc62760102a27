"""The stages around the search, as commands: train-lm, nbest, decode with fusion, rescore, label smoothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from lhotse import CutSet
from lhotse.cut import Cut

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle, load_recognizer, save_recognizer
from asrkit.cli.main import cli
from asrkit.config import DecodeConfig, FusionConfig
from asrkit.config_files import load_config
from asrkit.data.folder import DataFolder
from asrkit.data.nbest_label_smoothing import read_hypotheses
from asrkit.data.transcripts import transcript
from asrkit.decoding.decode import decode_split
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.tune_fusion import tune_fusion
from asrkit.errors import UserError
from asrkit.files import write_json
from asrkit.scoring.experiment import read_metrics
from asrkit.scoring.nist import read_trn
from asrkit.scoring.wer import word_errors
from asrkit.training.run import run_training
from tests.conftest import Workshop

LM = (
    "lm.hidden_dim=16",
    "lm.bottleneck_dim=8",
    "lm.batch_symbols=500",
    "train.num_epochs=1",
    "train.device=cpu",
    "train.schedule.type=one_cycle",
    "train.schedule.peak_lr=0.01",
    "train.schedule.warmup_epochs=0.5",
)


def asrkit(*args: str | Path) -> str:
    """Runs a command in this process and returns what it printed."""
    result = CliRunner().invoke(cli, list(map(str, args)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def shop(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random recognizer that talks, and a language model of the same symbols."""
    folder = tmp_path_factory.mktemp("search")
    config = load_config(workshop.folder / "tiny.yaml")
    tokenizer = DataFolder(workshop.folder / "data").load_tokenizer()
    torch.manual_seed(0)
    model = build_transducer(config, tokenizer.vocab_size)
    with torch.no_grad():
        model.joiner.out.weight.mul_(6)
        model.joiner.out.bias[0] += 3.0
    statistics = DataFolder(workshop.folder / "data").load_statistics()
    save_recognizer(folder / "model.safetensors", ModelBundle(model, config, tokenizer, statistics))
    cuts = CutSet.from_file(workshop.folder / "data" / "features" / "train.jsonl.gz")
    (folder / "text.txt").write_text("\n".join(map(transcript, cuts)))
    for name, kind in (("lm", "lstm"), ("transformer", "transformer")):
        asrkit(
            "train-lm",
            "--data-dir",
            workshop.folder / "data",
            "--text",
            folder / "text.txt",
            "--dev-text",
            workshop.folder / "data" / "features" / "dev.jsonl.gz",
            "--exp-dir",
            folder / name,
            f"lm.type={kind}",
            *(LM if kind == "lstm" else LM[:1] + LM[2:]),
        )
    return {"folder": folder, "data": workshop.folder / "data", "config": workshop.folder / "tiny.yaml"}


def test_tuning_decodes_what_it_chooses(shop: dict[str, Path], tmp_path: Path) -> None:
    lm = str(shop["folder"] / "lm" / "best.safetensors")
    bundle = load_recognizer(shop["folder"] / "model.safetensors")
    beam = DecodeConfig(method="beam", beam=12, nbest=12)
    said = {
        cut.id: bundle.tokenizer.decode(max(nbest, key=lambda h: h.score + 0.8 * len(h.tokens)).tokens)
        for cut, nbest in decode_split(bundle, DataFolder(shop["data"]), "dev", beam).lists
    }
    asked: list[FusionConfig] = []

    def decode(fusion: FusionConfig) -> list[tuple[Cut, list[Hypothesis]]]:
        asked.append(fusion)
        decoded = decode_split(bundle, DataFolder(shop["data"]), "dev", replace(beam, fusion=fusion)).lists
        for cut, _ in decoded:
            cut.supervisions[0].text = said[cut.id]  # the truth is what a weight of the length prefers
        return decoded

    told: list[str] = []
    best = tune_fusion(
        bundle, FusionConfig(target_lm=lm), decode, lambda ref, hyp: word_errors(ref, hyp).total, tmp_path, told.append
    )
    assert asked[0] == FusionConfig(target_lm=lm) and 2 <= len(asked) <= 5 and best in asked
    assert len({(f.target_weight, f.length_weight) for f in asked}) == len(asked)
    report = (tmp_path / "fusion_grid.txt").read_text().splitlines()
    rates = [float(line.split()[1]) for line in report if line.startswith("decoded: ")]
    assert len(rates) == len(asked) and rates[asked.index(best)] == min(rates)
    assert report[-1].startswith(f"lowest: {min(rates):.2f} %")


def test_fusion_is_tuned_decoded_and_rescored(shop: dict[str, Path]) -> None:
    folder, lm = shop["folder"], shop["folder"] / "lm" / "best.safetensors"
    decode: list[str | Path] = [
        "decode",
        "--model",
        folder / "model.safetensors",
        "--data-dir",
        shop["data"],
        "--split",
        "dev",
    ]
    decode += ["decode.method=beam", "decode.beam=4", "decode.nbest=4"]
    decode += [f"decode.fusion.target_lm={lm}", "decode.fusion.source_lm=internal"]
    printed = asrkit(*decode, "--out-dir", folder / "fused", "--tune-fusion")
    assert (folder / "fused" / "fusion_grid.png").is_file()
    tried = [line.split(maxsplit=1)[1] for line in printed.splitlines() if line.startswith("decoded: ")]
    lowest = min(tried, key=lambda line: float(line.split()[0]))
    assert f"lowest: {lowest}" in printed
    kept = json.loads((folder / "fused" / "decode.json").read_text())["settings"]["fusion"]
    assert all(f"decode.fusion.{name}={kept[name]}" in lowest for name in ("source_weight", "target_weight"))
    asrkit("score", "--ref", folder / "fused" / "ref.trn", "--hyp", folder / "fused" / "hyp.trn")
    scored = json.loads((folder / "fused" / "score.json").read_text())
    assert scored["wer"]["rate"] == pytest.approx(float(lowest.split()[0]), abs=0.01)
    weights = ["decode.fusion.target_weight=0.3", "decode.fusion.source_weight=0.2"]
    again = asrkit(*decode, "--out-dir", folder / "weighted", *weights)
    assert "lowest" not in again
    asrkit(
        "decode",
        "--model",
        folder / "model.safetensors",
        "--data-dir",
        shop["data"],
        "--split",
        "dev",
        "--out-dir",
        folder / "same",
        "--fusion-of",
        folder / "weighted",
        "decode.method=beam",
        "decode.beam=4",
    )
    assert read_trn(folder / "same" / "hyp.trn") == read_trn(folder / "weighted" / "hyp.trn")
    lists = {cut.id: cut.hypotheses for cut in CutSet.from_file(folder / "weighted" / "hypotheses.jsonl.gz")}
    assert len(lists) == 6
    for of_utterance in lists.values():
        for hypothesis in of_utterance:
            assert {"am", "source_lm", "target_lm", "length"} <= set(hypothesis["parts"])
            assert all(0 <= word["confidence"] <= 1 for word in hypothesis["words"])
    asrkit(
        "rescore",
        "--decoded",
        folder / "weighted",
        "--lm",
        folder / "transformer" / "best.safetensors",
        "--weight",
        "5.0",
        "--out-dir",
        folder / "rescored",
    )
    assert read_trn(folder / "rescored" / "hyp.trn").keys() == read_trn(folder / "weighted" / "hyp.trn").keys()
    rescored = {cut.id: cut.hypotheses for cut in CutSet.from_file(folder / "rescored" / "hypotheses.jsonl.gz")}
    for id, of_utterance in rescored.items():
        assert sorted(h["text"] for h in of_utterance) == sorted(h["text"] for h in lists[id])
        assert [h["score"] for h in of_utterance] == sorted((h["score"] for h in of_utterance), reverse=True)


def test_nbest_lists_smooth_labels_in_their_epochs(shop: dict[str, Path], tmp_path: Path) -> None:
    lists = shop["folder"] / "nbest.jsonl.gz"
    asrkit(
        "nbest",
        "--model",
        shop["folder"] / "model.safetensors",
        "--data-dir",
        shop["data"],
        "--output",
        lists,
        "decode.method=beam",
        "decode.beam=4",
        "decode.nbest=4",
    )
    found = read_hypotheses(lists, DataFolder(shop["data"]).load_tokenizer())
    assert len(found) == 24 and max(map(len, found.values())) == 4
    overrides = [
        f"nbest_label_smoothing.hypotheses={lists}",
        "nbest_label_smoothing.probability=0.5",
        "nbest_label_smoothing.from_epoch=2",
        "nbest_label_smoothing.until_epoch=2",
        "train.num_epochs=3",
    ]
    run_training(load_config(shop["config"], overrides), shop["data"], tmp_path / "exp")
    hits = [line["augmented"]["nbest_label_smoothing"] for line in read_metrics(tmp_path / "exp" / "metrics.jsonl")]
    assert hits[0] == hits[2] == 0 and 4 <= hits[1] <= 20
    some = tmp_path / "some.jsonl.gz"
    CutSet.from_file(lists).subset(first=20).to_file(some)
    overrides[0] = f"nbest_label_smoothing.hypotheses={some}"
    with pytest.raises(UserError, match=r"has no n-best list of .* \(4 of 24 utterances\)"):
        run_training(load_config(shop["config"], overrides), shop["data"], tmp_path / "refused")
    with pytest.raises(UserError, match=r"tokenizer\.type is bpe but"):
        run_training(load_config(shop["config"], ["tokenizer.type=bpe"]), shop["data"], tmp_path / "refused")


def test_mistakes_name_what_to_mend(shop: dict[str, Path], tmp_path: Path) -> None:
    decode = [
        "decode",
        "--model",
        str(shop["folder"] / "model.safetensors"),
        "--data-dir",
        str(shop["data"]),
        "--split",
        "dev",
        "--out-dir",
        str(tmp_path),
    ]
    lm = shop["folder"] / "lm" / "best.safetensors"
    for overrides, message in (
        ([f"decode.fusion.target_lm={lm}", "decode.fusion.target_weight=0.3"], "needs decode.method=beam"),
        (["decode.method=beam", "decode.fusion.target_weight=0.3"], "target_lm is not"),
        (["decode.method=beam", "--tune-fusion"], "--tune-fusion needs"),
        (["decode.method=beam", f"decode.fusion.target_lm={lm}"], "target_weight is 0"),
        (
            [
                "decode.method=beam",
                "decode.fusion.target_weight=0.3",
                f"decode.fusion.target_lm={shop['folder'] / 'transformer' / 'best.safetensors'}",
            ],
            "asrkit rescore",
        ),
    ):
        with pytest.raises(UserError, match=message):
            CliRunner().invoke(cli, [*decode, *overrides], catch_exceptions=False)
    nbest = ["nbest", *decode[1:-2], "--output", str(tmp_path / "n.jsonl.gz")]
    with pytest.raises(UserError, match="one hypothesis"):
        CliRunner().invoke(cli, nbest, catch_exceptions=False)
    nbest[-1] = str(tmp_path / "n.txt")
    with pytest.raises(UserError, match=r"n\.txt must be a CutSet"):
        CliRunner().invoke(cli, [*nbest, "decode.method=beam"], catch_exceptions=False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot work in the folder"):
        CliRunner().invoke(cli, [*decode[:-1], str(tmp_path / "file" / "out")], catch_exceptions=False)
    settings = {"fusion": asdict(FusionConfig(target_lm=str(lm), target_weight=0.5))}
    write_json(tmp_path / "before" / "decode.json", {"settings": settings})
    with pytest.raises(UserError, match=r"target_weight is 0\.1, but .* has 0\.5"):
        CliRunner().invoke(
            cli,
            [*decode, "--fusion-of", str(tmp_path / "before"), "decode.fusion.target_weight=0.1"],
            catch_exceptions=False,
        )
