"""The C code of ``w4a4.c``: finding it, choosing the instructions it uses, and calling it.

It is compiled when the package is installed, if there is a compiler, and is called through ctypes: it is compiled
against neither torch's nor Python's interface. Without it, torch computes products of codes, as exactly.
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
"""Columns stored together."""
GROUP = 8
"""K is padded to a multiple of it."""
VERSION = 1
"""Of the interface of ``w4a4.c``."""
CHOICE = "ASRKIT_KERNEL"
"""Environment: one of plain, avx2, vnni, amx or torch, in place of the fastest."""


class Instructions(IntEnum):
    """What a product runs on, slowest first."""

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
    """The compiled C, or None if there was no compiler at installation."""
    path = FOLDER / f"_w4a4{sysconfig.get_config_var('EXT_SUFFIX')}"
    try:
        found = ctypes.CDLL(str(path))
        current = found.asrkit_interface() == 1000 * ctypes.sizeof(ProductStruct) + VERSION
    except (OSError, AttributeError):  # not compiled; for another processor; an earlier version
        return None
    if not current:
        return None
    product, quantizer = POINTER(ProductStruct), POINTER(QuantizerStruct)
    found.asrkit_product.argtypes = [c_int, c_int, product]
    found.asrkit_codes.argtypes = [c_int, c_int, quantizer, c_void_p, *[c_long] * 3, c_void_p, c_void_p]
    found.asrkit_cells.argtypes = [c_int, c_int, c_void_p, c_void_p, c_void_p, c_long, c_long]
    found.asrkit_lstm.argtypes = [c_int, c_int, product, quantizer, *[c_void_p] * 4, *[c_long] * 3]
    found.asrkit_use_team.argtypes = [c_void_p] * 3
    for function in (found.asrkit_product, found.asrkit_codes, found.asrkit_cells, found.asrkit_use_team):
        function.restype = None
    if (team := openmp()) is not None:
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        found.asrkit_use_team(*(ctypes.cast(getattr(team, name), c_void_p) for name in names))
    return found


def openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch runs on, if it can be found and has GNU's interface (Linux)."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    loaded = {line.split(maxsplit=5)[5] for line in lines if re.search(r"/lib(gomp|iomp5|omp)[^/]*\.so[^/]*$", line)}
    # Other packages bundle theirs.
    for path in sorted(loaded, key=lambda path: "torch" not in path):
        try:
            library = ctypes.CDLL(path)
        except OSError:  # replaced since it was loaded
            continue
        if hasattr(library, "GOMP_parallel"):
            return library
    return None


def available() -> list[Instructions]:
    """What the compiled C can run on here, slowest first."""
    found = library()
    paths = 0 if found is None else found.asrkit_paths()
    return [path for path in Instructions if paths >> path & 1]


@lru_cache(maxsize=1)
def chosen() -> Instructions | None:
    """What products run on: the fastest available, or what the environment requests; None means torch.

    Raises:
        UserError: the environment requests what is unavailable.
    """
    paths, asked = available(), os.environ.get(CHOICE, "").lower()
    if asked == "torch" or (not asked and not paths):
        return None
    names = [path.name.lower() for path in paths]
    if asked and asked not in names:
        raise UserError(f"{CHOICE}={asked}: here it can be {', '.join([*names, 'torch'])}")
    return paths[names.index(asked)] if asked else paths[-1]


def describe() -> str:
    """One line for ``asrkit doctor``."""
    path = chosen()
    if path is not None:
        return f"compiled C on {path.name}"
    if library() is not None:
        return f"torch, as {CHOICE} asks"
    return "torch, slower than C: install a C compiler, then asrkit once more (pip install --force-reinstall --no-deps)"


def pointer(x: torch.Tensor | None) -> int | None:
    """Of a contiguous tensor's data."""
    return None if x is None else x.data_ptr()


def make_codes(
    path: Instructions, quantizer: QuantizerStruct, x: torch.Tensor, padded: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of (M, K) float32: int8, M rows of ``padded`` and slack, and their sums (M,) int32."""
    rows, columns = x.shape
    codes = torch.empty(rows * padded + SLACK, dtype=torch.int8)
    sums = torch.empty(rows, dtype=torch.int32)
    found = library()
    assert found is not None
    threads = torch.get_num_threads()
    found.asrkit_codes(path, threads, quantizer, pointer(x), rows, columns, padded, pointer(codes), pointer(sums))
    return codes, sums


def run_product(path: Instructions, product: ProductStruct) -> None:
    """Fills ``product.out``."""
    found = library()
    assert found is not None
    found.asrkit_product(path, torch.get_num_threads(), product)


def run_cells(path: Instructions, gates: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Gates (B, 4 H) and cell states (B, H), which are overwritten, to hidden states (B, H); all float32."""
    found, h = library(), torch.empty_like(c)
    assert found is not None
    found.asrkit_cells(path, torch.get_num_threads(), pointer(gates), pointer(h), pointer(c), len(c), c.shape[1])
    return h


def run_lstm(
    path: Instructions,
    of_hidden: ProductStruct,
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
    found = library()
    assert found is not None
    code = found.asrkit_lstm(
        path,
        torch.get_num_threads(),
        of_hidden,
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
