"""The C code of ``w4a4.c``: finding it, choosing its instructions, and calling it.

It is compiled when the package is installed, if there is a compiler, and is called through ctypes, independently of the
interfaces of torch and Python. Without it, torch computes products of codes, with equal results.
"""

from __future__ import annotations

import ctypes
import os
import re
import sysconfig
from ctypes import POINTER, Structure, c_float, c_int, c_int32, c_long, c_void_p
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import torch

from asrkit.errors import UserError

FOLDER = Path(__file__).resolve().parent
SLACK = 64
"""Readable bytes that must follow codes."""
PANEL = 16
"""Columns that are stored together."""
GROUP = 8
"""K is padded to a multiple of this."""
VERSION = 1
"""Version of the interface of ``w4a4.c``."""
CHOICE = "ASRKIT_KERNEL"
"""Environment variable: plain, avx2, vnni, amx or torch instead of the fastest."""


class Instructions(IntEnum):
    """Instruction sets of products, slowest first."""

    PLAIN = 0
    AVX2 = 1
    VNNI = 2
    AMX = 3


class ProductStruct(Structure):
    """``product_t``."""

    _fields_ = (
        ("x", c_void_p),
        ("sums", c_void_p),
        ("w", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("bias", c_void_p),
        ("out", c_void_p),
        ("m", c_long),
        ("n", c_long),
        ("k", c_long),
        ("ld", c_long),
        ("p", c_int32),
        ("r", c_int32),
        ("bits", c_int32),
        ("add", c_int32),
    )


class QuantizerStruct(Structure):
    """``quantizer_t``."""

    _fields_ = (("low", c_float), ("factor", c_float), ("top", c_float), ("half", c_int32))


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled C code, or None if there was no compiler at installation."""
    path = FOLDER / f"_w4a4{sysconfig.get_config_var('EXT_SUFFIX')}"
    try:
        lib = ctypes.CDLL(str(path))
        current = lib.asrkit_interface() == 1000 * ctypes.sizeof(ProductStruct) + VERSION
    except (OSError, AttributeError):  # not compiled; for another processor; an earlier version
        return None
    if not current:
        return None
    product, quantizer = POINTER(ProductStruct), POINTER(QuantizerStruct)
    lib.asrkit_product.argtypes = [c_int, c_int, product]
    lib.asrkit_codes.argtypes = [c_int, c_int, quantizer, c_void_p, *[c_long] * 3, c_void_p, c_void_p]
    lib.asrkit_cells.argtypes = [c_int, c_int, c_void_p, c_void_p, c_void_p, c_long, c_long]
    lib.asrkit_lstm.argtypes = [c_int, c_int, product, quantizer, *[c_void_p] * 4, *[c_long] * 3]
    lib.asrkit_use_team.argtypes = [c_void_p] * 3
    for function in (lib.asrkit_product, lib.asrkit_codes, lib.asrkit_cells, lib.asrkit_use_team):
        function.restype = None
    if (team := openmp()) is not None:
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        lib.asrkit_use_team(*(ctypes.cast(getattr(team, name), c_void_p) for name in names))
    return lib


def openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch runs on, if it can be found and has GNU's interface (Linux)."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    loaded = {line.split(maxsplit=5)[5] for line in lines if re.search(r"/lib(gomp|iomp5|omp)[^/]*\.so[^/]*$", line)}
    # Other packages have their own copies.
    for path in sorted(loaded, key=lambda path: "torch" not in path):
        try:
            lib = ctypes.CDLL(path)
        except OSError:  # replaced since it was loaded
            continue
        if hasattr(lib, "GOMP_parallel"):
            return lib
    return None


def available() -> list[Instructions]:
    """Instruction sets of the compiled C code on this machine, slowest first."""
    lib = library()
    paths = 0 if lib is None else lib.asrkit_paths()
    return [path for path in Instructions if paths >> path & 1]


@lru_cache(maxsize=1)
def chosen() -> Instructions | None:
    """The instruction set of products: the fastest available, or the one that the environment requests; None for torch.

    Raises:
        UserError: the environment requests an unavailable one.
    """
    paths, requested = available(), os.environ.get(CHOICE, "").lower()
    if requested == "torch" or (not requested and not paths):
        return None
    names = [path.name.lower() for path in paths]
    if requested and requested not in names:
        raise UserError(f"{CHOICE}={requested}: here it can be {', '.join([*names, 'torch'])}")
    return paths[names.index(requested)] if requested else paths[-1]


def describe() -> str:
    """One line for ``asrkit doctor``."""
    path = chosen()
    if path is not None:
        return f"compiled C on {path.name}"
    if library() is not None:
        return f"torch, as {CHOICE} asks"
    return "torch, slower than C: install a C compiler, then asrkit once more (pip install --force-reinstall --no-deps)"


def pointer(x: torch.Tensor | None) -> int | None:
    """Address of a contiguous tensor's data."""
    return None if x is None else x.data_ptr()


def make_codes(
    path: Instructions, quantizer: QuantizerStruct, x: torch.Tensor, padded: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of (M, K) float32: int8, M rows of ``padded`` and slack, and their sums (M,) int32."""
    rows, columns = x.shape
    codes = torch.empty(rows * padded + SLACK, dtype=torch.int8)
    sums = torch.empty(rows, dtype=torch.int32)
    lib = library()
    assert lib is not None
    threads = torch.get_num_threads()
    lib.asrkit_codes(path, threads, quantizer, pointer(x), rows, columns, padded, pointer(codes), pointer(sums))
    return codes, sums


def run_product(path: Instructions, product: ProductStruct) -> None:
    """Fills ``product.out``."""
    lib = library()
    assert lib is not None
    lib.asrkit_product(path, torch.get_num_threads(), product)


def run_cells(path: Instructions, gates: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Gates (B, 4 H) and cell states (B, H), both overwritten, to hidden states (B, H); all float32."""
    lib, h = library(), torch.empty_like(c)
    assert lib is not None
    lib.asrkit_cells(path, torch.get_num_threads(), pointer(gates), pointer(h), pointer(c), len(c), c.shape[1])
    return h


def run_lstm(
    path: Instructions,
    hidden_product: ProductStruct,
    quantizer: QuantizerStruct,
    gates: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
) -> torch.Tensor:
    """Input contributions to the gates (T, B, 4 H), and the previous state, to hidden states (T, B, H).

    ``gates`` and ``c`` are overwritten, c with the cell state after the last step.
    """
    time, rows, width = gates.shape
    out = torch.empty(time, rows, width // 4)
    lib = library()
    assert lib is not None
    code = lib.asrkit_lstm(
        path,
        torch.get_num_threads(),
        hidden_product,
        quantizer,
        pointer(gates),
        pointer(h),
        pointer(c),
        pointer(out),
        time,
        rows,
        width // 4,
    )
    if code:
        raise MemoryError(f"no memory for the codes of {rows} states")
    return out
