"""Beam searches of asrkit and of its peers over the same weights and encoder outputs: time, WER, -log P.

Usage: tools/bench/peers.sh && .venv-peers/bin/python tools/bench/decode.py [--json]
           [--recipe NAME:MODEL:DATA_DIR[:SOURCE_LM:TARGET_LM]]... [--utterances N]

With language models over a recipe's symbols, its searches run with density-ratio fusion too.
Times are of the search alone, in milliseconds per utterance, after the encoder has run; the real-time factor
adds the encoder's time. Searches that take batches get 128 utterances at a time. ``neg_log_prob`` is the exact
-log P (full sum by asrkit's loss) of the returned hypothesis, mean over utterances.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peer_searches import SherpaSearch, espnet_search, speechbrain_search, torchaudio_search, usable

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import ModelBundle, load_language_model, load_recognizer
from asrkit.cpu import restart_with_allocator
from asrkit.data.folder import DataFolder
from asrkit.data.transcripts import transcript
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search, modified_beam_search
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.greedy import greedy_search
from asrkit.losses.transducer import transducer_loss
from asrkit.models.language_model import LstmLanguageModel
from asrkit.models.transducer import Transducer
from asrkit.scoring.wer import word_error_rate

ROOT = Path(__file__).resolve().parents[2]
BATCH = 128
THREADS = 2
WEIGHTS = FusionWeights(source=0.3, target=0.4, length=0.2)
"""For timing; the recipes tune them."""


@dataclass
class Task:
    """A test set, encoded."""

    name: str
    bundle: ModelBundle[Transducer]
    encoded: list[torch.Tensor]
    """(T', D) of each utterance, longest first."""
    references: list[str]
    audio_s: float
    encoder_s: float

    @property
    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Padded batches with their lengths."""
        parts = [self.encoded[i : i + BATCH] for i in range(0, len(self.encoded), BATCH)]
        return [(pad_sequence(part, batch_first=True), torch.tensor([len(x) for x in part])) for part in parts]


def make_task(name: str, model_path: Path, data_dir: Path, utterances: int) -> Task:
    """Loads a model and encodes ``utterances`` of its recipe's test set, evenly picked by length."""
    bundle, folder = load_recognizer(model_path), DataFolder(data_dir)
    pipeline = build_pipeline(bundle.config, folder.load_statistics() | bundle.statistics)
    cuts = sorted(folder.read_features("test"), key=lambda cut: -cut.duration)
    cuts = cuts[:: max(1, len(cuts) // utterances)][:utterances]
    features = [pipeline(cut)[0] for cut in cuts]
    encoded, started = [], time.perf_counter()
    with torch.no_grad():  # not inference mode, whose tensors the peers' modules refuse
        for i in range(0, len(features), BATCH):
            part = features[i : i + BATCH]
            out, lens = bundle.model.encoder(pad_sequence(part, batch_first=True), torch.tensor([len(x) for x in part]))
            encoded += [x[:n].clone() for x, n in zip(out, lens.tolist(), strict=True)]
    seconds = time.perf_counter() - started
    return Task(name, bundle, encoded, [transcript(cut) for cut in cuts], sum(c.duration for c in cuts), seconds)


def neg_log_probs(task: Task, tokens: list[list[int]]) -> list[float]:
    """Exact -log P of a label sequence for each utterance."""
    model, found = task.bundle.model, []
    with torch.inference_mode():
        for x, labels in zip(task.encoded, tokens, strict=True):
            y = torch.tensor([labels], dtype=torch.int64)
            logits = model.joiner(x[None], model.predictor(y))
            lens = torch.tensor([len(x)]), torch.tensor([len(labels)])
            found.append(transducer_loss(logits.double(), y, *lens, reduction="sum").item())
    return found


Run = Callable[[], list[list[int]]]


def ours(task: Task, search: str, beam: int, fusion: Fusion | None = None) -> Run:
    """A search of asrkit over all batches."""
    model, options = task.bundle.model, BeamOptions(beam=beam)
    if search == "greedy":
        function: Callable[..., Any] = partial(greedy_search, max_symbols=5)
    else:
        chosen = beam_search if search == "alsd" else modified_beam_search
        function = partial(chosen, options=options, fusion=fusion)

    def run() -> list[list[int]]:
        found = [h for x, lens in task.batches for h in function(model, x, lens, frame_shift_s=0.04)]
        return [h.tokens if search == "greedy" else h[0].tokens for h in found]

    return run


def sherpa(task: Task, beam: int, batch: int) -> Run:
    """sherpa-onnx over all utterances, ``batch`` at a time."""
    search = SherpaSearch(task.bundle, beam, THREADS)
    runs = [search.prepare(task.encoded[i : i + batch]) for i in range(0, len(task.encoded), batch)]
    return lambda: [tokens for run in runs for tokens in run()]


def systems(task: Task, fusion: Fusion | None, slow: bool) -> dict[tuple[str, str, int, bool], Run]:
    """All searches by (toolkit, search, beam, with fusion)."""
    runs: dict[tuple[str, str, int, bool], Run] = {("asrkit", "greedy", 1, False): ours(task, "greedy", 1)}
    for beam in (1, 4, 16):
        runs["asrkit", "alsd", beam, False] = ours(task, "alsd", beam)
        if fusion is not None:
            runs["asrkit", "alsd", beam, True] = ours(task, "alsd", beam, fusion)
        runs["asrkit", "modified", beam, False] = ours(task, "modified", beam)
    if not usable(task.bundle.model):
        return runs
    for batch in (1, BATCH):
        runs["sherpa-onnx", f"modified, batch {batch}", 4, False] = sherpa(task, 4, batch)
    model, encoded = task.bundle.model, task.encoded
    if slow:
        for beam in (4, 16):
            for kind in ("alsd", "maes"):
                runs["espnet", kind, beam, False] = partial(espnet_search(model, kind, beam), encoded)
            runs["torchaudio", "beam", beam, False] = partial(torchaudio_search(model, beam), encoded)
            runs["speechbrain", "beam", beam, False] = partial(speechbrain_search(model, beam), encoded)
    return runs


def measure(task: Task, fusion: Fusion | None, slow: bool, repeats: int) -> list[dict[str, object]]:
    """Runs every system; the fast ones take turns ``repeats`` times, the slow ones run once."""
    rows, runs = [], systems(task, fusion, slow)
    exact: dict[tuple[str, str, int, bool], list[float]] = {}
    tokens: dict[tuple[str, str, int, bool], list[list[int]]] = {}
    seconds: dict[tuple[str, str, int, bool], list[float]] = {key: [] for key in runs}
    for turn in range(repeats + 1):
        for key, run in runs.items():
            if turn and key[0] not in ("asrkit", "sherpa-onnx"):
                continue
            started = time.perf_counter()
            with torch.no_grad():
                tokens[key] = run()
            seconds[key].append(time.perf_counter() - started)
    seconds = {key: turns[1:] or turns for key, turns in seconds.items()}
    for key, found in tokens.items():
        name, search, beam, with_fusion = key
        taken = statistics.median(seconds[key])
        exact[key] = neg_log_probs(task, found)
        texts = [task.bundle.tokenizer.decode(t) for t in found]
        rows.append(
            {
                "name": name,
                "corpus": task.name,
                "search": search,
                "beam": beam,
                "fusion": with_fusion,
                "ms_per_utt": round(1000 * taken / len(found), 3),
                "rtf": round((taken + task.encoder_s) / task.audio_s, 5),
                "wer": round(word_error_rate(zip(task.references, texts, strict=True)), 3),
                "neg_log_prob": round(statistics.mean(exact[key]), 5),
            }
        )
        print(" ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    greedy = exact["asrkit", "greedy", 1, False]
    for beam in (4, 16):
        pairs = zip(exact["asrkit", "alsd", beam, False], greedy, strict=True)
        share = sum(wide <= best + 1e-6 for wide, best in pairs) / len(greedy)
        print(f"{task.name}: beam {beam} is at least as probable as greedy on {100 * share:.2f} % of utterances")
    for beam in (1, 4, 16) if fusion is not None else ():
        plain, fused = (seconds["asrkit", "alsd", beam, with_fusion] for with_fusion in (False, True))
        # In turns, since the machine's speed changes between them.
        ratio = statistics.median(b / a for a, b in zip(plain, fused, strict=True))
        print(f"{task.name}: fusion takes {ratio:.2f} times as long at beam {beam}")
    theirs = tokens.get(("sherpa-onnx", f"modified, batch {BATCH}", 4, False))
    if theirs:
        same = sum(a == b for a, b in zip(tokens["asrkit", "modified", 4, False], theirs, strict=True)) / len(theirs)
        print(f"{task.name}: modified beam 4 gives sherpa-onnx's tokens on {100 * same:.2f} % of utterances")
    return rows


def read_lstm(path: Path) -> LstmLanguageModel:
    """A language model for fusion."""
    model = load_language_model(path).model
    assert isinstance(model, LstmLanguageModel)
    return model


def main() -> None:
    """Measures every recipe given and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--recipe", action="append", help="NAME:MODEL:DATA_DIR[:SOURCE_LM:TARGET_LM]")
    parser.add_argument("--utterances", type=int, default=130, help="of each test set")
    parser.add_argument("--repeats", type=int, default=7, help="turns of the fast searches, after a first one")
    parser.add_argument("--no-slow-peers", action="store_true", help="leave out ESPnet, torchaudio and SpeechBrain")
    arguments = parser.parse_args()
    restart_with_allocator(sys.argv)  # as asrkit decode does
    torch.set_num_threads(THREADS)
    recipes = arguments.recipe or [
        f"{name}:{ROOT}/egs/{name}/exp/{experiment}/averaged.safetensors:{ROOT}/egs/{name}/data"
        for name, experiment in (("an4", "conformer_stateless"), ("speechocean762", "conformer"))
    ]
    rows: list[dict[str, object]] = []
    for recipe in recipes:
        name, model, data_dir, *lms = recipe.split(":")
        fusion = None
        if lms:
            source, target = (read_lstm(Path(lm)) for lm in lms)
            fusion = Fusion(WEIGHTS, target, source)
        task = make_task(name, Path(model), Path(data_dir), arguments.utterances)
        rows += measure(task, fusion, not arguments.no_slow_peers, arguments.repeats)
    if arguments.json:
        print(json.dumps({"systems": rows}))


if __name__ == "__main__":
    main()
