"""Calls every function of a compiled ``w4a4.c`` on NumPy arrays of exactly the sizes that it may touch.

Usage: python memory_of_kernels.py LIBRARY   (under AddressSanitizer, so without torch)
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_long, c_void_p

import numpy as np


class Product(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "sums", "w", "scale", "shift", "bias", "out")),
        *((name, c_long) for name in ("m", "n", "k", "ld")),
        *((name, c_int32) for name in ("p", "r", "bits", "add")),
    )


class Quantizer(Structure):
    _fields_ = (("low", c_float), ("factor", c_float), ("top", c_float), ("half", c_int32))


def main(path: str) -> None:
    library, random = ctypes.CDLL(path), np.random.default_rng(0)
    library.asrkit_product.argtypes = [c_int, c_int, POINTER(Product)]
    library.asrkit_codes.argtypes = [c_int, c_int, POINTER(Quantizer), c_void_p, *[c_long] * 3, c_void_p, c_void_p]
    library.asrkit_lstm.argtypes = [c_int, c_int, POINTER(Product), POINTER(Quantizer), *[c_void_p] * 4, *[c_long] * 3]
    team = ctypes.CDLL(ctypes.util.find_library("gomp"))
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    library.asrkit_use_team(*(ctypes.cast(getattr(team, name), c_void_p) for name in names))
    library.asrkit_cells.argtypes = [c_int, c_int, c_void_p, c_void_p, c_void_p, c_long, c_long]
    for instructions in [n for n in range(8) if library.asrkit_paths() >> n & 1]:
        for case in range(60):
            m, k, n = int(random.integers(1, 70)), int(random.integers(1, 150)), int(random.integers(1, 90))
            if case < 4:  # beyond what the paths take at once
                m, k, n = ((40, 1100, 20), (600, 520, 33))[case // 2]
            bits, threads = (8, 4)[case % 2], 1 + case % 3
            padded, wide = -(-k // 8) * 8, -(-n // 16) * 16
            quantizer = Quantizer(-1.0, 2 ** (bits - 1) - 1.0, 2.0**bits - 2, 2 ** (bits - 1))
            x = random.standard_normal((m, k)).astype(np.float32)
            codes, sums = np.empty(m * padded + 64, np.int8), np.empty(m, np.int32)
            library.asrkit_codes(
                instructions,
                threads,
                byref(quantizer),
                x.ctypes.data,
                m,
                k,
                padded,
                codes.ctypes.data,
                sums.ctypes.data,
            )
            w = random.integers(0, 256, wide * padded * bits // 8, np.uint8)
            scale, shift = np.ones(n, np.float32), np.zeros(n, np.int32)
            bias, out = np.zeros(n, np.float32), np.zeros((m, n), np.float32)
            product = Product(
                *(array.ctypes.data for array in (codes, sums, w, scale, shift, bias, out)),
                *(m, n, padded, n),
                *(1, 0, bits, case % 5 == 0),
            )
            library.asrkit_product(instructions, threads, byref(product))
            time, rows, hidden = int(random.integers(1, 5)), 1 + case % 5, (16 * (1 + case % 4), k)[case % 2]
            wide, padded = -(-4 * hidden // 16) * 16, -(-hidden // 8) * 8
            w = random.integers(0, 256, wide * padded * bits // 8, np.uint8)
            scale, shift = np.full(4 * hidden, 1e-3, np.float32), np.zeros(4 * hidden, np.int32)
            gates = np.zeros((time, rows, 4 * hidden), np.float32)
            h, c = np.zeros((rows, hidden), np.float32), np.zeros((rows, hidden), np.float32)
            states = np.zeros((time, rows, hidden), np.float32)
            product = Product(
                *(None, None, w.ctypes.data, scale.ctypes.data, shift.ctypes.data, None, None),
                *(0, 4 * hidden, padded, 4 * hidden),
                *(1, 0, bits, 1),
            )
            library.asrkit_lstm(
                instructions,
                threads,
                byref(product),
                byref(quantizer),
                *(array.ctypes.data for array in (gates, h, c, states)),
                *(time, rows, hidden),
            )
            library.asrkit_cells(instructions, 1, gates.ctypes.data, h.ctypes.data, c.ctypes.data, rows, hidden)
    print("checked")


if __name__ == "__main__":
    main(sys.argv[1])
