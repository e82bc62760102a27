"""The paper's transducer with two language models at 4 bits, against 8 bits, bf16 and float32: time, memory, file size.

Usage: .venv/bin/python tools/bench/int4.py [--json] [--repeats N] [--isa avx2] [--part kernels]

Models of the paper's sizes (57 M transducer, 5 M source and 84 M external language model) with random weights and a
blank that lets labels through at a natural rate on average; beam 16, density-ratio fusion, two threads, one utterance
at a time.
Each system runs in its own process, which reads its files and holds its memory; they take turns. Memory is what a
process takes beyond what it took before it read its models. The products alone are compared with those of torch and
ONNX Runtime, the best of each.

--isa avx2 limits ours and torch to AVX2 on a processor that has more (ONNX Runtime cannot be limited).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import multiprocessing
import os
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peer_products import ort_products, torch_products
from random_models import set_label_rate, sharpen

from asrkit.bundle.build import build_language_model, build_transducer
from asrkit.bundle.model_file import (
    ModelBundle,
    load_language_model,
    load_recognizer,
    save_language_model,
    save_recognizer,
)
from asrkit.config import Config
from asrkit.config_files import load_config
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.models.blstm import BlstmLayer
from asrkit.models.language_model import LstmLanguageModel
from asrkit.models.transducer import Transducer
from asrkit.quantization.integer import Grid, IntegerProduct, use_integers
from asrkit.quantization.kernels import chosen
from asrkit.quantization.qat import calibrate
from asrkit.quantization.quantizers import FixedQuantizer, MaxQuantizer
from asrkit.text.tokenizer import train_tokenizer

SYSTEMS = ("int4", "int8", "bf16", "fp32")
RECOGNIZER, SOURCE, EXTERNAL = "recognizer.safetensors", "source.safetensors", "external.safetensors"
SYMBOLS, FRAMES, FRAME_SHIFT_S, LABELS_PER_FRAME = 46, 152, 0.02, 0.26
BEAM, THREADS, UTTERANCES = 16, 2, 3
SECONDS_EACH = 0.15
WEIGHTS = FusionWeights(source=0.5, target=0.7, length=0.2)
LANGUAGE_MODELS = {SOURCE: (768, 1), EXTERNAL: (2048, 2)}
KERNELS = [(m, k, n) for k, n in ((640, 2560), (2048, 8192)) for m in (1, 4, 16, 64, 256)] + [(2048, 512, 2048)]
AVX2 = {
    "ASRKIT_KERNEL": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def features(number: int) -> torch.Tensor:
    """One utterance, (1, T, F)."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(1, FRAMES, 340, generator=generator)


def config_of(folder: Path, system: str, includes: Sequence[str], overrides: Sequence[str]) -> Config:
    """The configuration of a model, quantized by the policy in ``includes`` where the system is."""
    quantized = system in ("int4", "int8")
    path = folder / "bench.yaml"
    path.write_text("include:\n" + "".join(f"  - {name}\n" for name in includes if quantized or "quantize" not in name))
    more = list(overrides)
    if system == "int8":
        for layer in load_config(path).quantization.layers:
            key = f"quantization.layers.{layer}"
            more += [f"{key}.weights.type=max", *(f"{key}.{part}.bits=8" for part in ("weights", "inputs", "hidden"))]
    return load_config(path, more)


def write_models(folder: Path, system: str, blank_bias: float | None = None) -> float:
    """The three models of a system, with the same random weights in all.

    Args:
        folder: for their files.
        system: one of ``SYSTEMS``.
        blank_bias: of the joiner; searched for if None.

    Returns:
        The bias.
    """
    folder.mkdir()
    tokenizer = train_tokenizer([string.ascii_letters[: SYMBOLS - 1]], "char", 0)
    assert tokenizer.vocab_size == SYMBOLS
    quantized = system in ("int4", "int8")
    config = config_of(folder, system, ["model/blstm_57m.yaml", "quantize/int4_rnnt.yaml"], [])
    torch.manual_seed(0)
    plain = config_of(folder, "fp32", ["model/blstm_57m.yaml"], [])
    weights = build_transducer(plain, SYMBOLS).state_dict()
    model = build_transducer(config, SYMBOLS)
    model.load_state_dict(weights, strict=False)
    for layer in model.encoder.get_submodule("layers").children():
        assert isinstance(layer, BlstmLayer)
        with torch.no_grad():  # or its output would hardly change from frame to frame
            for side in (layer.forth, layer.back):
                side.weight_ih.mul_(4)
    sharpen(model)
    lens, labels = torch.tensor([FRAMES]), torch.randint(1, SYMBOLS, (1, 40))
    with calibrate(model):
        model.joiner(model.encoder(features(0), lens)[0], model.predictor(labels))
    for name, (hidden, layers) in LANGUAGE_MODELS.items():
        sizes = [f"lm.hidden_dim={hidden}", f"lm.num_layers={layers}", "lm.bottleneck_dim=256"]
        torch.manual_seed(1)
        weights = build_language_model(config_of(folder, "fp32", [], sizes), SYMBOLS).state_dict()
        of_lm = config_of(folder, system, ["quantize/int4_lm.yaml"], sizes)
        lm = build_language_model(of_lm, SYMBOLS)
        lm.load_state_dict(weights, strict=False)
        with calibrate(lm):
            lm(labels)
        save_language_model(folder / name, ModelBundle(lm.eval(), of_lm, tokenizer), packed=quantized)
    recognizer = ModelBundle(model.eval(), config, tokenizer)
    save_recognizer(folder / RECOGNIZER, recognizer, packed=quantized)
    if blank_bias is None:
        opened, fusion = read_system(folder, system)

        def labels_per_frame() -> float:
            return sum(decode(opened, fusion, n, system) for n in range(UTTERANCES)) / UTTERANCES / FRAMES

        set_label_rate(opened, labels_per_frame, LABELS_PER_FRAME)
        blank_bias = opened.joiner.out.bias[0].item()
    with torch.no_grad():
        model.joiner.out.bias[0] = blank_bias
    save_recognizer(folder / RECOGNIZER, recognizer, packed=quantized)
    return blank_bias


def read_system(folder: Path, system: str) -> tuple[Transducer, Fusion]:
    """The models of a system from their files, as it computes with them."""
    model = load_recognizer(folder / RECOGNIZER).model
    target, source = (load_language_model(folder / name).model for name in (EXTERNAL, SOURCE))
    assert isinstance(target, LstmLanguageModel) and isinstance(source, LstmLanguageModel)
    for part in (model, target, source):
        use_integers(part)
        if system == "bf16":
            part.bfloat16()
    return model, Fusion(WEIGHTS, target, source)


def serve(system: str, folder: Path, connection: Connection) -> None:
    """A process with one system: sends its memory and its path, then the seconds of each utterance it is given."""
    torch.set_num_threads(THREADS)
    before = resident_mib()
    model, fusion = read_system(folder, system)
    labels = [decode(model, fusion, number, system) for number in range(UTTERANCES)]
    connection.send((resident_mib() - before, labels))
    while (number := connection.recv()) is not None:
        started = time.perf_counter()
        decode(model, fusion, number, system)
        connection.send(time.perf_counter() - started)


def decode(model: Transducer, fusion: Fusion, number: int, system: str) -> int:
    """How many labels the best hypothesis of an utterance has."""
    x = features(number)
    with torch.inference_mode():
        out, lens = model.encoder(x.bfloat16() if system == "bf16" else x, torch.tensor([FRAMES]))
        options = BeamOptions(beam=BEAM)
        found = beam_search(model, out, lens, frame_shift_s=FRAME_SHIFT_S, options=options, fusion=fusion)
    return len(found[0][0].tokens)


def resident_mib() -> float:
    """Of this process, after the C library has given back what it can (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def end_to_end(repeats: int) -> dict[str, object]:
    """Real-time factors, memory and file sizes of all systems."""
    with tempfile.TemporaryDirectory() as folder:
        ours: dict[str, Connection] = {}
        bias: float | None = None
        memory: dict[str, float] = {}
        size: dict[str, float] = {}
        for system in SYSTEMS:
            path = Path(folder) / system
            bias = write_models(path, system, bias)
            size[system] = sum(file.stat().st_size for file in path.glob("*.safetensors")) / 1e6
            ours[system] = start(serve, system, path)
            memory[system], labels = ours[system].recv()
            print(
                f"{system}: files {size[system]:.1f} MB, memory {memory[system]:.0f} MiB, {labels} labels", flush=True
            )
        times: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        for _ in range(repeats):
            for number in range(UTTERANCES):
                for system, connection in ours.items():
                    connection.send(number)
                    times[system].append(connection.recv())
        for connection in ours.values():
            connection.send(None)
    seconds = {system: statistics.median(taken) for system, taken in times.items()}
    rtf = {f"rtf_{system}": round(taken / (FRAMES * FRAME_SHIFT_S), 4) for system, taken in seconds.items()}
    speedup = {f"speedup_vs_{peer}": round(seconds[peer] / seconds["int4"], 2) for peer in ("fp32", "int8", "bf16")}
    return {
        **rtf,
        **speedup,
        "memory_ratio": round(memory["int4"] / memory["fp32"], 3),
        "file_compression": round(size["fp32"] / size["int4"], 2),
    }


def products(family: str, m: int, k: int, n: int) -> dict[str, list[Callable[[], object]]]:
    """A family's products of a size, by name; of several with one name the fastest counts."""
    torch.manual_seed(0)
    weight, x = torch.randn(n, k), torch.randn(m, k)
    if family == "torch":
        return torch_products(x, weight)
    if family == "ort":
        return ort_products(x, weight, THREADS)
    product = product_of_codes(weight)
    return {"ours": [lambda: product(x)]}


def product_of_codes(weight: torch.Tensor) -> IntegerProduct:
    """With a weight (N, K) of 4 bits and inputs of as many."""
    quantizer = MaxQuantizer(4, zero_aligned=True).train()
    quantizer(weight)
    grid = Grid.of(quantizer, signed=False)
    assert grid is not None
    return IntegerProduct(quantizer.codes(weight).to(torch.uint8), grid, FixedQuantizer(4, 2.5), None, 4)


def serve_products(family: str, connection: Connection) -> None:
    """A process with one family: answers a size with the microseconds of each of its products."""
    torch.set_num_threads(THREADS)
    connection.send(None)
    while (size := connection.recv()) is not None:
        taken: dict[str, float] = {}
        for name, runs in products(family, *size).items():
            for run in runs:
                run()
                times: list[float] = []
                end = time.perf_counter() + SECONDS_EACH
                while time.perf_counter() < end or len(times) < 3:
                    started = time.perf_counter()
                    run()
                    times.append(time.perf_counter() - started)
                taken[name] = min(taken.get(name, math.inf), 1e6 * statistics.median(times))
        connection.send(taken)


def kernels(repeats: int) -> list[dict[str, object]]:
    """A product with 4-bit weights and activations of each size, quantization of the activations included.

    Each library runs in its own process, since its threads keep looking for work for a while after each product.
    """
    families = {family: start(serve_products, family) for family in ("ours", "torch", "ort")}
    for connection in families.values():
        connection.recv()
    rows: list[dict[str, object]] = []
    for m, k, n in KERNELS:
        seen: dict[str, list[float]] = {}
        for _ in range(repeats):
            for connection in families.values():
                connection.send((m, k, n))
                for name, microseconds in connection.recv().items():
                    seen.setdefault(name, []).append(microseconds)
        rows.append(
            {"m": m, "k": k, "n": n} | {f"{name}_us": round(statistics.median(v), 1) for name, v in seen.items()}
        )
        print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    for connection in families.values():
        connection.send(None)
    return rows


def start(function: Callable[..., None], *arguments: object) -> Connection:
    """A process that runs ``function`` with one end of a connection, whose other end is returned."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=function, args=(*arguments, there), daemon=True).start()
    there.close()  # or nobody would notice that the process has ended
    return here


def processor() -> str:
    """What is measured on."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    return f"{os.uname().machine} with {', '.join(sets)}; products on {getattr(chosen(), 'name', 'torch')}"


def main() -> None:
    """Measures the products, then the systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--isa", choices=["avx2"], help="limit ours and torch to it")
    parser.add_argument("--part", choices=["kernels", "models"], help="measure only this")
    arguments = parser.parse_args()
    if arguments.isa and os.environ.get("ASRKIT_KERNEL") != "avx2":
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | AVX2)
    torch.set_num_threads(THREADS)
    print(processor(), flush=True)
    result: dict[str, object] = {"processor": processor(), "isa": arguments.isa or "all"}
    if arguments.part != "models":
        result["kernels"] = kernels(arguments.repeats)
    if arguments.part != "kernels":
        result |= end_to_end(arguments.repeats)
        print(", ".join(f"{key} {value}" for key, value in result.items() if key != "kernels"))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
