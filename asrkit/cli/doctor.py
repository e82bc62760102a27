"""``asrkit doctor``."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import click
import torch
from rich.console import Console
from rich.table import Table

from asrkit.cpu import find_allocator
from asrkit.features.audio_files import LIBSNDFILE_VERSION
from asrkit.quantization.kernels import describe

REQUIRED = (
    "asrkit",
    "torch",
    "torchaudio",
    "lhotse",
    "sentencepiece",
    "soundfile",
    "safetensors",
    "omegaconf",
)
OPTIONAL = {
    "kaldi-native-fbank": "the test that compares features with it",
    "jiwer": "the test that compares error rates with it",
    "k2": "loss.implementation=k2 (tools/install_k2.sh; tools/test_k2.sh tests it in an environment of its own)",
    "onnx": "asrkit export --onnx (extra onnx)",
    "onnxruntime": "the test of the ONNX files (extra onnx)",
    "faiss-cpu": "dense retrieval, asrkit retrieve and pcas (extra retrieval)",
    "bm25s": "retrieval by words (extra retrieval)",
    "sentence-transformers": "dense retrieval, asrkit retrieve and pcas (extra retrieval)",
}
"""Optional packages, and what is switched off without each."""
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@click.command()
def doctor() -> None:
    """Print versions, devices, instruction sets and optional packages."""
    table = Table(title="asrkit doctor", show_header=False)
    table.add_row("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    for name in REQUIRED:
        table.add_row(name, _version(name) or "missing: run tools/setup.sh")
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # such as one that was built for another torch
        table.add_row(
            "torchaudio", f"cannot be loaded: {error.__cause__ or error}; remove .venv and run tools/setup.sh"
        )
    table.add_row("libsndfile", LIBSNDFILE_VERSION)
    table.add_row("cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}")
    table.add_row("instruction sets", ", ".join(_instruction_sets()) or "unknown")
    table.add_row("products of codes", describe())
    allocator = find_allocator()
    table.add_row(
        "allocator", allocator or "malloc: a CPU trains and decodes slower than with libtcmalloc-minimal4 installed"
    )
    table.add_row("CUDA devices", ", ".join(_cuda_devices()) or "none: training and decoding run on the CPU")
    for name, switched_off in OPTIONAL.items():
        table.add_row(name, _version(name) or f"missing: switches off {switched_off}")
    sclite = shutil.which("sclite") or shutil.which("sctk")
    table.add_row(
        "NIST sclite", sclite or "missing: switches off the test that compares scores with it (tools/install_sctk.sh)"
    )
    Console().print(table)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _instruction_sets() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return [torch.backends.cpu.get_cpu_capability()]
    return [name for name in INSTRUCTION_SETS if name in flags]


def _cuda_devices() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
