"""Whoever does what a message advises gets further, until the command that failed succeeds."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from asrkit.cli.main import cli
from asrkit.data.folder import DataFolder
from asrkit.errors import UserError
from asrkit.features.normalization import GLOBAL
from tests.conftest import TINY

ADVICE = re.compile(r"asrkit ([a-z]+(?:-[a-z]+)*)((?: --[a-z][a-z-]*(?: \d+)?)*)")
REMOVE = re.compile(r"^(\S+) .*remove it and")
FORCE = re.compile(r"--force \w+ it again")
MOST_STEPS = 5
BEAM = "decode.method=beam", "decode.beam=8"
BPE = "tokenizer.type=bpe", "tokenizer.vocab_size=12"
WORDS = ["".join(letters) for letters in islice(permutations("STALE"), 16)]
"""All of the same letters, so that the transcripts of any split hold every symbol."""


@dataclass
class Desk:
    """A corpus, data prepared from it and an experiment, and the arguments of each command that messages advise."""

    corpus: Path
    folder: Path
    train: list[str] = field(default_factory=list)
    """Further arguments of ``train``."""

    @property
    def data(self) -> Path:
        """Prepared data."""
        return self.folder / "data"

    @property
    def model(self) -> Path:
        """A model of the data as they were at first."""
        return self.folder / "first" / "averaged.safetensors"

    def arguments(self, command: str) -> list[str]:
        """What a user adds to an advised command."""
        data, config = ["--data-dir", str(self.data)], ["--config", str(self.folder / "tiny.yaml")]
        return {
            "prepare": ["folder", "--corpus-dir", str(self.corpus), *data],
            "check": ["folder", "--corpus-dir", str(self.corpus), *data],
            "features": [*data, *config, *(word for word in self.train if word.startswith("features."))],
            "tokenizer": [*data, *config, *(word for word in self.train if word.startswith("tokenizer."))],
            "train": [*data, *config, "--exp-dir", str(self.folder / "exp"), *self.train],
            "align": [*data, "--model", str(self.model)],
            "nbest": [*data, "--model", str(self.model), "--output", str(self.folder / "nbest.jsonl.gz"), *BEAM],
            "utterance-scores": [*data, "--model", str(self.model), "--output", str(self.folder / "scores.jsonl")],
            "decode": [*data, "--model", str(self.model), "--out-dir", str(self.folder / "out")],
            "score": [word for name in ("ref", "hyp") for word in (f"--{name}", str(self.folder / f"out/{name}.trn"))],
        }[command]

    def run(self, *words: str) -> str:
        """Runs a command; its message if it fails as users' mistakes do, else nothing."""
        result = CliRunner().invoke(cli, [words[0], *self.arguments(words[0]), *words[1:]])
        if result.exit_code == 0:
            return ""
        assert isinstance(result.exception, UserError), (words, result.output, result.exception)
        return str(result.exception)

    def follow(self, command: str) -> list[str]:
        """Runs a command, and what its messages advise, until it succeeds; the first message and those commands."""
        message = self.run(command)
        story, words = [message], [command]
        for _ in range(MOST_STEPS):
            if not message:
                return story
            if remove := REMOVE.search(message):
                Path(remove[1]).unlink()
            if advised := ADVICE.search(message):
                words = [advised[1], *advised[2].split()]
            else:
                assert FORCE.search(message), message
                words.append("--force")
            story.append(" ".join(words))
            before, message = message, self.run(*words) or self.run(command)
            assert message != before, story
        raise AssertionError(story)


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Noise of four speakers with transcripts, through all stages."""
    folder = tmp_path_factory.mktemp("desk")
    corpus = folder / "corpus"
    (corpus / "audio").mkdir(parents=True)
    noise, text, speakers = np.random.default_rng(1), [], []
    for n, word in enumerate(WORDS):
        id, seconds = f"u{n:02}", 3.0 if n == 15 else 1 + n / 50
        soundfile.write(corpus / "audio" / f"{id}.wav", noise.normal(0, 0.1, int(16000 * seconds)), 16000)
        text.append(f"{id} {word}")
        speakers.append(f"{id} s{n % 4}")
    (corpus / "text").write_text("\n".join(text) + "\n")
    (corpus / "utt2spk").write_text("\n".join(speakers) + "\n")
    values: dict[str, Any] = deepcopy(TINY)
    values["features"] |= {"store": True, "speed_factors": [1.0]}
    values["tokenizer"] = {"type": "char"}
    values["train"] |= {"num_epochs": 1, "average_epochs": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    desk = Desk(corpus, folder)
    for command in ("prepare", "tokenizer", "features", "train"):
        assert desk.run(command) == ""
    (folder / "exp").rename(folder / "first")
    return desk


@pytest.fixture
def desk(ready: Desk, tmp_path: Path) -> Desk:
    """A copy at another place, which prepared data allow."""
    shutil.copytree(ready.folder, tmp_path / "desk")
    return Desk(tmp_path / "desk" / "corpus", tmp_path / "desk")


def removed(name: str) -> Callable[[Desk], None]:
    return lambda desk: (desk.data / name).unlink()


def damaged(name: str) -> Callable[[Desk], None]:
    def fault(desk: Desk) -> None:
        (desk.data / name).write_bytes(b"damaged")

    return fault


def rewritten(name: str) -> Callable[[Desk], None]:
    """The file with its last line gone, as another program might write it."""

    def fault(desk: Desk) -> None:
        path = desk.data / name
        path.write_bytes(gzip.compress(b"".join(gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:-1])))

    return fault


def unfinished(name: str) -> Callable[[Desk], None]:
    def fault(desk: Desk) -> None:
        path = desk.data / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"unfinished": True}))

    return fault


def training(*overrides: str) -> Callable[[Desk], None]:
    return lambda desk: desk.train.extend(overrides)


def corrected_transcript(desk: Desk) -> None:
    path = desk.corpus / "text"
    path.write_text(path.read_text().replace(WORDS[0], "SETTLES"))


def another_alphabet(desk: Desk) -> None:
    path = desk.corpus / "text"
    path.write_text(path.read_text().replace("S", "Š"))


def other_audio(desk: Desk) -> None:
    soundfile.write(desk.corpus / "audio" / "u00.wav", np.random.default_rng(2).normal(0, 0.1, 20000), 16000)


def damaged_index(desk: Desk) -> None:
    for path in DataFolder(desk.data).index("train").glob("*.npy"):
        path.write_bytes(b"damaged")


def no_recording(desk: Desk) -> None:
    desk.train.append("features.store=false")
    assert desk.run("features", "--force") == ""
    (desk.corpus / "audio" / "u00.wav").unlink()


def no_lists(desk: Desk) -> None:
    lists = desk.folder / "nbest.jsonl.gz"
    desk.train += ["nbest_label_smoothing.probability=0.5", f"nbest_label_smoothing.hypotheses={lists}"]


def lists_of_dev(desk: Desk) -> None:
    no_lists(desk)
    assert desk.run("nbest", "--split", "dev") == ""


def no_scores(desk: Desk) -> None:
    scores = desk.folder / "scores.jsonl"
    desk.train += ["train.sampling.type=highest_scores", "train.sampling.rate=0.5", f"train.sampling.scores={scores}"]


def scores_of_one(desk: Desk) -> None:
    no_scores(desk)
    (desk.folder / "scores.jsonl").write_text(json.dumps({"id": "u00", "el2n": 1.0, "grand": 1.0}) + "\n")


def no_alignments(desk: Desk) -> None:
    desk.train += ["loss.frame_epochs=-1", "train.dev_measure=frame_error"]


def damaged_alignments(desk: Desk) -> None:
    no_alignments(desk)
    assert desk.run("align") == ""
    DataFolder(desk.data).alignments("train").write_bytes(b"damaged")


def alignments_of_other_cuts(desk: Desk) -> None:
    no_alignments(desk)
    assert desk.run("align") == ""
    corrected_transcript(desk)
    for command in ("prepare", "features", "tokenizer"):
        assert desk.run(command, "--force") == ""


def no_stored_features(desk: Desk) -> None:
    for folder in (desk.data / "features").iterdir():
        if folder.is_dir():
            for path in folder.rglob("*"):
                if path.is_file():
                    path.unlink()


def one_group_of_statistics(desk: Desk) -> None:
    desk.train.append("features.normalization=speaker")
    path = desk.data / "features" / "statistics.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name.startswith(GLOBAL)}, path)


FAULTS: dict[str, tuple[Callable[[Desk], None], str, Sequence[str]]] = {
    "no statistics": (removed("features/statistics.safetensors"), "is missing", ["features"]),
    "damaged statistics": (damaged("features/statistics.safetensors"), "remove it and", ["features"]),
    "no symbols": (removed("tokenizer.json"), "is missing", ["tokenizer"]),
    "damaged symbols": (damaged("tokenizer.json"), "remove it and", ["tokenizer"]),
    "other symbols": (training(*BPE), "is of type char", ["tokenizer --force"]),
    "features of no file": (removed("features/train.jsonl.gz"), "is missing", ["features"]),
    "damaged features": (damaged("features/train.jsonl.gz"), "remove it and", ["features"]),
    "damaged splits": (damaged("splits.json"), "cannot be read", ["prepare --force"]),
    "other cuts": (rewritten("train.jsonl.gz"), "has changed since", ["features --force", "tokenizer --force"]),
    "damaged cuts": (damaged("train.jsonl.gz"), "has changed since", ["features --force", "prepare"]),
    "preparation cut short": (unfinished("inputs.json"), "not prepared to the end", ["prepare"]),
    "features cut short": (unfinished("features/inputs.json"), "incomplete", ["features"]),
    "a corrected transcript": (corrected_transcript, "text has changed", ["prepare --force", "features --force"]),
    "another alphabet": (another_alphabet, "text has changed", ["prepare --force", "features --force"]),
    "another recording": (other_audio, "u00.wav has changed", ["prepare --force", "features --force"]),
    "other features": (training("features.num_mel_bins=12"), "16 bins", ["features --force"]),
    "a damaged index": (damaged_index, "", []),
    "damaged roots": (damaged("roots.json"), "cannot be read", ["prepare --force"]),
    "no recording": (
        no_recording,
        "there is no such file",
        ["check", "prepare --skip-bad", "prepare --skip-bad --force"],
    ),
    "no n-best lists": (no_lists, "there is no file", ["nbest"]),
    "n-best lists of dev": (lists_of_dev, "has no n-best list of", ["nbest", "nbest --force"]),
    "no scores": (no_scores, "there is no file", ["utterance-scores"]),
    "scores of others": (scores_of_one, "has no score of", ["utterance-scores"]),
    "no alignments": (no_alignments, "is missing", ["align"]),
    "damaged alignments": (damaged_alignments, "remove it and", ["align"]),
    "alignments of other cuts": (alignments_of_other_cuts, "is of other data", ["align --force"]),
    "lost features": (no_stored_features, "stored features", ["features --force"]),
    "no speaker's statistics": (one_group_of_statistics, "no statistics", ["features --force"]),
    "a long utterance": (training("train.batch_seconds=2.5"), "lasts 3.0 s", ["prepare --force --max-seconds 2"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_training_advises_leads_to_a_model(name: str, desk: Desk) -> None:
    fault, words, expected = FAULTS[name]
    fault(desk)
    message, *advised = desk.follow("train")
    assert words in message
    assert (advised[: len(expected)] if expected else advised) == list(expected)
    assert (desk.folder / "exp" / "averaged.safetensors").is_file()


def test_what_scoring_advises_leads_to_scores(desk: Desk) -> None:
    message, *advised = desk.follow("score")
    assert "ref.trn is missing" in message and advised == ["decode"]


@pytest.mark.parametrize("fault", ["empty", "missing"])
def test_what_preparing_advises_leads_to_data(fault: str, desk: Desk) -> None:
    if fault == "empty":
        (desk.corpus / "text").write_text((desk.corpus / "text").read_text().replace(WORDS[0], ""))
    else:
        (desk.corpus / "audio" / "u00.wav").unlink()
    shutil.rmtree(desk.data)
    message = desk.run("prepare")
    assert "1 of 16 utterances cannot be used" in message and "asrkit prepare --skip-bad" in message
    assert desk.run("prepare", "--skip-bad") == ""
    assert len((desk.data / "bad.jsonl").read_text().splitlines()) == 1
