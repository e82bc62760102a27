"""Runs two trees of this project side by side and compares what they compute; see compare_commits.sh."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from asrkit.bundle.model_file import read_model_file

ENCODERS: dict[str, list[str]] = {
    "conformer": [],
    "dssformer": ["model.encoder.type=dssformer", "model.encoder.dss.state_dim=4"],
    "blstm": [
        "model.encoder.type=blstm",
        "model.encoder.blstm.num_layers=2",
        "model.encoder.blstm.cells=12",
        "features.stacking=4",
        "model.predictor.num_layers=2",
    ],
}
TOKENIZERS: dict[str, list[str]] = {
    "char": [],
    "bpe": ["tokenizer.type=bpe", "tokenizer.vocab_size=60", "loss.prune_range=5"],
}
LM = [
    "lm.hidden_dim=16",
    "lm.bottleneck_dim=8",
    "lm.batch_symbols=500",
    "lm.dropout=0",
    "lm.num_layers=2",
    "train.num_epochs=2",
    "train.device=cpu",
    "train.schedule.type=one_cycle",
    "train.schedule.warmup_epochs=1",
]
FUSION = ["decode.fusion.target_weight=0.3", "decode.fusion.source_lm=internal", "decode.fusion.source_weight=0.2"]
SEARCHES = {
    "greedy": ["decode.method=greedy"],
    "beam": ["decode.method=beam", "decode.beam=4", "decode.nbest=4"],
    "modified_beam": ["decode.method=modified_beam", "decode.beam=4", "decode.nbest=4"],
}


Words = list[str | Path]


@dataclass(frozen=True)
class Tree:
    """A checkout and where its results go."""

    path: Path
    out: Path

    def run(self, *words: str | Path) -> None:
        """Runs the tree's own ``asrkit``."""
        command = [sys.executable, "-m", "asrkit", *map(str, words)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.path)}
        done = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{self.path}: {' '.join(command)}\n{done.stdout}{done.stderr}")

    def decode(self, model: Path, data_dir: Path, out: str, *overrides: str) -> str:
        """The hypotheses of the test split."""
        self.run("decode", "--model", model, "--data-dir", data_dir, "--out-dir", self.out / out, *overrides)
        return (self.out / out / "hyp.trn").read_text()


class Comparison:
    """Counts what is equal and what is not."""

    def __init__(self) -> None:
        self.different = 0

    def say(self, what: str, equal: bool, more: str = "") -> None:
        """One line of the report."""
        self.different += not equal
        print(f"{'equal    ' if equal else 'DIFFERENT'} {what}{f' ({more})' if more else ''}", flush=True)

    def weights(self, what: str, earlier: Path, now: Path) -> None:
        """Compares two model files bit for bit."""
        a, b = (read_model_file(path).tensors for path in (earlier, now))
        same_names = a.keys() == b.keys()
        shared = a.keys() & b.keys()
        furthest = max((a[name].double() - b[name].double()).abs().max().item() for name in shared)
        equal = same_names and all(torch.equal(a[name], b[name]) for name in shared)
        self.say(what, equal, "" if equal else f"names {'equal' if same_names else 'differ'}, largest {furthest:.2e}")


def make_corpus(corpus: Path, folder: Path) -> None:
    """Forty utterances of eight AN4 speakers as a folder with ``text`` and ``utt2spk``."""
    lines = (corpus / "etc" / "an4_train.transcription").read_text().splitlines()
    ids = [line.strip() for line in (corpus / "etc" / "an4_train.fileids").read_text().splitlines() if line.strip()]
    texts = {line.rsplit("(", 1)[1].rstrip(") \n"): line.rsplit("(", 1)[0] for line in lines if line.strip()}
    folder.mkdir(parents=True)
    text, utt2spk = [], []
    by_speaker: dict[str, list[str]] = {}
    for id in ids:
        by_speaker.setdefault(id.split("/")[-2], []).append(id)
    for speaker, own in list(by_speaker.items())[:8]:
        for id in own[:5]:
            audio = next((corpus / "wav").glob(f"{id}.*"))
            shutil.copy(audio, folder / audio.name)
            words = texts[audio.stem].replace("<s>", "").replace("</s>", "")
            text.append(f"{audio.stem} {words.strip().upper()}\n")
            utt2spk.append(f"{audio.stem} {speaker}\n")
    (folder / "text").write_text("".join(text))
    (folder / "utt2spk").write_text("".join(utt2spk))


def prepare(tree: Tree, corpus: Path, data: Path, settings: Sequence[str | Path]) -> None:
    """The stages before training."""
    tree.run("prepare", "folder", "--corpus-dir", corpus, "--data-dir", data)
    tree.run("tokenizer", "--data-dir", data, *settings)
    tree.run("features", "--data-dir", data, *settings)


def compare(earlier: Tree, now: Tree, work: Path, given: Sequence[Path]) -> int:
    """Prints one line per comparison and returns how many differ; ``given`` may name a model and its data."""
    result = Comparison()
    make_corpus(now.path / "egs" / "an4" / "corpus", work / "corpus")
    config: Words = ["--config", now.path / "tests" / "tiny.yaml"]
    three_epochs = ["loss.ctc_only_epochs=1", "train.num_epochs=3", "train.device=cpu"]
    for tree, symbols in product((earlier, now), TOKENIZERS):
        prepare(tree, work / "corpus", tree.out / f"data_{symbols}", [*config, *TOKENIZERS[symbols]])
    for encoder, symbols, processes in product(ENCODERS, TOKENIZERS, (1, 2)):
        exp = f"{encoder}_{symbols}_{processes}"
        for tree in (earlier, now):
            folders: Words = ["--data-dir", tree.out / f"data_{symbols}", "--exp-dir", tree.out / exp]
            settings: Words = [*config, *three_epochs, *ENCODERS[encoder], *TOKENIZERS[symbols]]
            tree.run("train", *folders, "--processes", str(processes), *settings)
        paths = [tree.out / exp / "averaged.safetensors" for tree in (earlier, now)]
        result.weights(f"{encoder}, {symbols}, {processes} process(es): weights after 3 epochs", *paths)
        if processes == 1:
            shutil.copytree(earlier.out / exp, now.out / f"{exp}_resumed")
            for tree, folder in ((earlier, exp), (now, f"{exp}_resumed")):
                folders = ["--data-dir", tree.out / f"data_{symbols}", "--exp-dir", tree.out / folder]
                tree.run("train", *folders, *settings, "train.num_epochs=4")
            paths = [earlier.out / exp / "averaged.safetensors", now.out / f"{exp}_resumed" / "averaged.safetensors"]
            result.weights(f"{encoder}, {symbols}: the earlier training resumed for a 4th epoch", *paths)
    compare_language_models(result, earlier, now)
    compare_hypotheses(result, earlier, now, earlier.out / "conformer_char_1" / "averaged.safetensors")
    if given:
        model, data_dir = given
        for name, overrides in SEARCHES.items():
            found = [tree.decode(model, data_dir, f"given_{name}", *overrides) for tree in (earlier, now)]
            result.say(f"{name}: hypotheses of {model}", found[0] == found[1])
    return result.different


def compare_language_models(result: Comparison, earlier: Tree, now: Tree) -> None:
    """A language model, without dropout: its random draws depend on the training loop."""
    for tree in (earlier, now):
        data = tree.out / "data_char"
        text: Words = ["--text", data / "train.jsonl.gz", "--dev-text", data / "dev.jsonl.gz"]
        tree.run("train-lm", "--data-dir", data, *text, "--exp-dir", tree.out / "lm", *LM)
    result.weights("language model", *(tree.out / "lm" / "best.safetensors" for tree in (earlier, now)))


def compare_hypotheses(result: Comparison, earlier: Tree, now: Tree, model: Path) -> None:
    """Each search with the earlier commit's recognizer, with its language model too."""
    fusion = [f"decode.fusion.target_lm={earlier.out / 'lm' / 'best.safetensors'}", *FUSION]
    for name, overrides in SEARCHES.items():
        for more, label in (([], ""), (fusion, " with fusion")) if name != "greedy" else (([], ""),):
            found = [
                tree.decode(model, tree.out / "data_char", f"decode_{name}_{len(more)}", *overrides, *more)
                for tree in (earlier, now)
            ]
            result.say(f"{name}{label}: hypotheses of the tiny conformer", found[0] == found[1])


def main() -> None:
    """Compares the trees that the command line names; exit code 1 if anything differs."""
    earlier, now, work = (Path(word).resolve() for word in sys.argv[1:4])
    given = [Path(word).resolve() for word in sys.argv[4:6]]
    different = compare(Tree(earlier, work / "earlier"), Tree(now, work / "now"), work, given)
    print(f"{different} of the comparisons differ" if different else "everything is equal")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
