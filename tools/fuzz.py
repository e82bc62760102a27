"""Feeds asrkit damaged and hostile files: each must be used, or refused with one line, in bounded time and memory.

Usage: .venv/bin/python tools/fuzz.py [--seed N] [--models N] [--audio N] [--configs N] [--lists N]

A case fails on any exception except UserError, on output that is not finite, or if it takes more than 5 s or 1 GB. A
model file with a single flipped bit must be refused.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import DIGEST, ModelBundle, header_digest, save_recognizer
from asrkit.config_files import config_from_dict, load_config
from asrkit.corpora.folder import read_folder
from asrkit.corpora.manifests import read_huggingface, read_lhotse, read_nemo
from asrkit.corpora.utterances import check
from asrkit.data.cut_files import load_roots, read_cuts
from asrkit.errors import UserError
from asrkit.export.recognizer import Recognizer
from asrkit.features.normalization import GLOBAL, MeanStd
from asrkit.scoring.nist import read_trn
from asrkit.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30
TINY = ROOT / "tests" / "tiny.yaml"
JUNK: list[Any] = [
    *(None, True, 0, -1, 10**7, 10**30, 1e308, math.nan, math.inf, "", "x", "\0", "../../etc/passwd", "${oc.env:HOME}"),
    *([], {}, [[]], {"a": {"a": {}}}, ["x"] * 50, "1e9", "\ud800", "a\nb", "\x1b[31m", [10**9], {"type": "command"}),
]
Case = tuple[str, Callable[[], None]]


class NotRefusedError(Exception):
    """Damage went undetected."""


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        n = rng.randrange(len(value))
        return [*value[:n], mutated(value[n], rng), *value[n + 1 :]]
    return rng.choice(JUNK)


def flipped(data: bytes, rng: random.Random, number: int = 1) -> bytes:
    """Data with bits changed."""
    changed = bytearray(data)
    for _ in range(number):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def model_cases(number: int, rng: random.Random, folder: Path) -> Iterator[Case]:
    """Flipped bits, truncated files, and headers and tensors changed on purpose, digests included."""
    tokenizer = train_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWXYZ ONE"], "char", 0)
    config = config_from_dict(yaml.safe_load(TINY.read_text()), "fuzz")
    torch.manual_seed(0)
    statistics = {GLOBAL: MeanStd(torch.full((16,), -5.0), torch.full((16,), 3.0))}
    model = build_transducer(config, tokenizer.vocab_size).eval()
    good = folder / "good.safetensors"
    save_recognizer(good, ModelBundle(model, config, tokenizer, statistics))
    data = good.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    audio = folder / "noise.wav"
    soundfile.write(audio, np.random.default_rng(0).normal(0, 0.1, 8000), 16000)

    def use(path: Path) -> None:
        transcript = Recognizer(path).transcribe(audio)
        if not math.isfinite(transcript.details["score"]):
            raise NotRefusedError("a score that is not finite")

    for n in range(number):
        path, kind = folder / f"model-{n}.safetensors", rng.choice(("flip", "flip", "cut", "metadata", "header", "nan"))
        if kind == "flip":
            # The header is a hundredth of the file, and holds what is easiest to get wrong.
            at = rng.randrange(8 + length) if rng.random() < 0.5 else rng.randrange(len(data))
            path.write_bytes(data[:at] + flipped(data[at : at + 1], rng) + data[at + 1 :])

            def refuse(path: Path = path) -> None:
                try:
                    Recognizer(path)
                except UserError:
                    return
                raise NotRefusedError("a flipped bit went undetected")

            yield f"model {n} {kind}", refuse
            continue
        if kind == "cut":
            path.write_bytes(data[: rng.randrange(len(data))])
        elif kind == "nan":
            tensors = dict(model.state_dict())
            name = rng.choice([name for name, value in tensors.items() if value.is_floating_point() and value.numel()])
            before = tensors[name].clone()
            tensors[name].view(-1)[0] = rng.choice((math.nan, math.inf, 1e38))
            save_recognizer(path, ModelBundle(model, config, tokenizer, statistics))
            tensors[name].copy_(before)
        else:
            changed = json.loads(json.dumps(header))
            if kind == "metadata":
                part = rng.choice(("config", "tokenizer", "kind", "asrkit_format"))
                said = changed["__metadata__"]
                value = mutated(json.loads(said[part]), rng) if part in ("config", "tokenizer") else rng.choice(JUNK)
                said[part] = json.dumps(value) if part in ("config", "tokenizer") else str(value)
                said[DIGEST] = header_digest(said)
            else:
                names = [name for name in changed if name != "__metadata__"]
                name = rng.choice(names)
                changed[name] = mutated(changed[name], rng)
            text = json.dumps(changed).encode("utf-8", "surrogatepass")
            path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        yield f"model {n} {kind}", partial(use, path)


def audio_cases(number: int, rng: random.Random, folder: Path) -> Iterator[Case]:
    """Audio of all kinds with flipped bits, truncated ends and headers that claim too much."""
    noise = np.random.default_rng(1).normal(0, 0.1, (16000, 2))
    for n in range(number):
        suffix = rng.choice(("wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf"))
        path = folder / f"audio-{n}.{suffix}"
        rate = rng.choice((8000, 16000, 22050, 44100, 48000))
        soundfile.write(path, noise[:, : rng.choice((1, 2))], rate)
        data = path.read_bytes()
        how = rng.choice(("flips", "head", "cut", "rate", "garbage"))
        if how == "flips":
            data = flipped(data, rng, rng.randrange(1, 30))
        elif how == "head":
            data = flipped(data[:64], rng, rng.randrange(1, 12)) + data[64:]
        elif how == "cut":
            data = data[: rng.randrange(len(data))]
        elif how == "rate" and suffix == "wav":
            data = data[:24] + rng.choice((1, 44101, 3, 2**31)).to_bytes(4, "little") + data[28:]
        elif how == "garbage":
            data = rng.randbytes(500)
        path.write_bytes(data)

        def use(path: Path = path) -> None:
            try:
                transcript = _recognizer(folder).transcribe(path)
            except UserError:
                return
            if not math.isfinite(transcript.details["score"]):
                raise NotRefusedError("a score that is not finite")

        yield f"audio {n} {suffix} {how}", use


def _recognizer(folder: Path, kept: dict[Path, Recognizer] = {}) -> Recognizer:  # noqa: B006  # one for all cases
    if folder not in kept:
        kept[folder] = Recognizer(folder / "good.safetensors")
    return kept[folder]


def config_cases(number: int, rng: random.Random, folder: Path) -> Iterator[Case]:
    """YAML with nonsensical values, bombs, repeated keys and things to evaluate."""
    values = yaml.safe_load(TINY.read_text())
    texts = [
        "a: &a [x, x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)),
        "train: {seed: 1, seed: 2}\n",
        "train: {seed: 1}\ntrain: {seed: 2}\n",
        "include: 5\n",
        "include: [[]]\n",
        "include: [self.yaml]\n",
        "[" * 2000,
        "{a: " * 500,
        "train: {init_from: '${oc.env:HOME}'}\n",
        "!!python/object/apply:os.system [true]\n",
        "? [a, b]\n: c\n",
        "&a [*a]\n",
    ]
    for n in range(number):
        path = folder / ("self.yaml" if n == 5 else f"config-{n}.yaml")
        if n < len(texts):
            path.write_text(texts[n])
        elif rng.random() < 0.3:
            path.write_bytes(flipped(TINY.read_bytes(), rng, 5))
        else:
            with contextlib.suppress(yaml.YAMLError, UnicodeError):
                path.write_text(yaml.safe_dump(mutated(values, rng)), encoding="utf-8", errors="replace")
        override = rng.choice(
            ["train.seed=", "train..seed=1", "=", "a=b=c", "train.max_grad_norm=1e999", "x=[", "train=3"]
        )
        yield f"config {n}", partial(_load, path, [override] if rng.random() < 0.2 else [])


def _load(path: Path, overrides: list[str]) -> None:
    config = load_config(path, overrides)
    for name, value in vars(config.train).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise NotRefusedError(f"train.{name} is {value}")


def list_cases(number: int, rng: random.Random, folder: Path) -> Iterator[Case]:
    """Manifests, lists of ids and trn files with hostile lines."""
    audio = folder / "corpus"
    audio.mkdir()
    for name in "abc":
        soundfile.write(audio / f"{name}.wav", np.random.default_rng(ord(name)).normal(0, 0.1, 16000), 16000)
    cut = {
        "id": "a",
        "start": 0,
        "duration": 1.0,
        "channel": 0,
        "type": "MonoCut",
        "supervisions": [
            {"id": "a", "recording_id": "a", "start": 0.0, "duration": 1.0, "channel": 0, "text": "ONE", "speaker": "s"}
        ],
        "recording": {
            "id": "a",
            "sources": [{"type": "file", "channels": [0], "source": "a.wav"}],
            "sampling_rate": 16000,
            "num_samples": 16000,
            "duration": 1.0,
            "channel_ids": [0],
        },
    }
    command = json.loads(json.dumps(cut))
    command["recording"]["sources"][0] |= {"type": "command", "source": f"touch {folder}/ran"}
    readers: dict[str, Callable[[Path], object]] = {
        "cuts": lambda path: read_cuts(path, load_roots(path.parent)),
        "lhotse": lambda path: check(read_lhotse(path.parent, folder / "data").utterances),
        "nemo": lambda path: check(read_nemo(path.parent, folder / "data").utterances),
        "huggingface": lambda path: check(read_huggingface(path.parent, folder / "data").utterances),
        "folder": lambda path: check(read_folder(path.parent, folder / "data").utterances),
        "trn": read_trn,
    }
    for n in range(number):
        kind = rng.choice(list(readers))
        place = folder / f"list-{n}"
        place.mkdir()
        for source in audio.iterdir():
            (place / source.name).symlink_to(source)
        lines = ["a ONE", "b TWO", "c THREE"]
        if kind in ("cuts", "lhotse"):
            name, lines = "train.jsonl", [json.dumps(command if n % 7 == 0 else mutated(cut, rng)) for _ in range(2)]
        elif kind == "nemo":
            entry = {"audio_filepath": "a.wav", "text": "ONE", "duration": 1.0, "offset": 0.0, "speaker": "s"}
            name, lines = "train.json", [json.dumps(mutated(entry, rng)) for _ in range(3)]
        elif kind == "huggingface":
            name, lines = "metadata.jsonl", [json.dumps(mutated({"file_name": "a.wav", "text": "ONE"}, rng))]
        elif kind == "trn":
            name, lines = "x.trn", ["a (s-1)", "{ a / b (s-2)", rng.choice(["(s-1)", "(", ")", "\0 (x)", "a (s 1)"])]
        else:
            name = rng.choice(["text", "utt2spk", "split", "segments", "wav.scp"])
            (place / "text").write_text("\n".join(lines))
            lines[rng.randrange(3)] = rng.choice(
                ["a", "\0 x", "../../x Y", "a\x1b[3m Z", "a nan nan", "a a -1 1e9", "a ls |"]
            )
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        (place / name).write_bytes(flipped(text, rng, 2) if rng.random() < 0.2 else text)
        yield f"list {n} {kind}", partial(_read, readers[kind], place / name, folder)


def _read(reader: Callable[[Path], object], path: Path, folder: Path) -> None:
    try:
        reader(path)
    finally:
        if (folder / "ran").exists():
            raise NotRefusedError("a command in a manifest was run")


def run(cases: Iterator[Case]) -> tuple[Counter[str], list[str]]:
    """How the cases ended, and those that failed."""
    ends, failures = Counter[str](), []
    for name, case in cases:
        start, problem = time.monotonic(), ""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                case()
            ends["used"] += 1
        except UserError as error:
            ends["refused"] += 1
            first = str(error).splitlines()[0] if str(error) else ""
            problem = "" if first.isprintable() and first else f"a message that cannot be printed: {str(error)!r}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - start
        if seconds > MOST_SECONDS:
            problem = problem or f"it took {seconds:.1f} s"
        if problem:
            failures.append(f"{name}: {problem[:300]}")
    return ends, failures


def main() -> None:
    """Runs all cases; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    for name, number in (("models", 300), ("audio", 60), ("configs", 100), ("lists", 100)):
        parser.add_argument(f"--{name}", type=int, default=number)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {
            "models": model_cases(arguments.models, rng, folder),
            "audio": audio_cases(arguments.audio, rng, folder),
            "configs": config_cases(arguments.configs, rng, folder),
            "lists": list_cases(arguments.lists, rng, folder),
        }
        for kind, cases in kinds.items():
            if kind == "audio" and not arguments.models:
                next(model_cases(1, rng, folder))
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, resource.RLIM_INFINITY))
            start = time.monotonic()
            ends, failed = run(cases)
            print(f"{kind}: {dict(ends)}, {len(failed)} failed, {time.monotonic() - start:.1f} s", flush=True)
            failures += failed
    print("\n".join(failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
