from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asrkit.errors import UserError
from asrkit.quantization import kernels
from asrkit.quantization.integer import FloatProducts, Grid, Int8Products, IntegerProduct
from asrkit.quantization.quantizers import FixedQuantizer, MaxQuantizer, Quantizer
from tests.conftest import ROOT

PATHS = [*kernels.available(), None]
SIZES = [(m, 1 + 37 * m % 211, 1 + 53 * m % 157) for m in range(1, 21)] + [
    (32, 64, 16),
    (67, 130, 47),
    (40, 1100, 20),
    (600, 520, 33),
]


def observed(quantizer: Quantizer, x: torch.Tensor) -> Quantizer:
    quantizer.train()
    quantizer(x)
    return quantizer.eval()


def product_of(
    monkeypatch: pytest.MonkeyPatch,
    path: kernels.Instructions | None,
    codes: torch.Tensor,
    weights: Quantizer,
    inputs: Quantizer,
    bias: torch.Tensor | None = None,
) -> IntegerProduct:
    monkeypatch.setattr(kernels, "chosen", lambda: path)
    grid = Grid.of(weights, signed=False)
    assert grid is not None
    return IntegerProduct(codes.to(torch.uint8), grid, inputs, bias, weights.bits)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_products_are_those_of_int64(monkeypatch: pytest.MonkeyPatch, path: kernels.Instructions, bits: int) -> None:
    """Unit steps, so that the result is the whole number itself."""
    torch.manual_seed(0)
    for m, k, n in SIZES:
        levels = 2**bits - 1
        weights = observed(MaxQuantizer(bits, zero_aligned=True), torch.full((n, k), levels // 2))
        inputs = FixedQuantizer(max(bits, 4), float((2 ** max(bits, 4) - 1) // 2))
        codes = torch.randint(0, levels, (n, k))
        x = torch.randint(-int(inputs.bound), int(inputs.bound) + 1, (m, k))
        expected = x @ (codes - levels // 2).T
        found = product_of(monkeypatch, path, codes, weights, inputs)(x.float())
        assert torch.equal(found.long(), expected), (m, k, n)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("zero_aligned", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_codes_overflow_nothing(
    monkeypatch: pytest.MonkeyPatch, path: kernels.Instructions, zero_aligned: bool, bits: int
) -> None:
    """4000 codes of the same end: 16-bit sums would overflow after 136 of them."""
    k, n, m, top = 4000, 17, 40, 2**bits - 1 - zero_aligned
    weights = observed(MaxQuantizer(bits, zero_aligned), torch.ones(n, k))
    inputs = FixedQuantizer(bits, 1.0, zero_aligned)
    for code in (0, top):
        for x in (-1.0, 1.0):
            product = product_of(monkeypatch, path, torch.full((n, k), code), weights, inputs)
            assert torch.allclose(product(torch.full((m, k), x)), torch.full((m, n), k * x * (2 * code / top - 1)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("zero_aligned", [True, False])
def test_a_product_of_codes_is_that_of_the_quantized_values(
    monkeypatch: pytest.MonkeyPatch, path: kernels.Instructions, zero_aligned: bool
) -> None:
    """Bounds for each row, a bias, inputs beyond their bounds, and a sum with what is there."""
    torch.manual_seed(0)
    weight, x, bias = torch.randn(29, 45), 2 * torch.randn(11, 45), torch.randn(29)
    weights, inputs = MaxQuantizer(4, zero_aligned, groups=29), FixedQuantizer(4, 1.5, zero_aligned)
    observed(weights, weight)
    expected = torch.nn.functional.linear(inputs(x).double(), weights(weight).double(), bias.double())
    product = product_of(monkeypatch, path, weights.codes(weight), weights, inputs, bias)
    found = product(x)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert torch.allclose(product(x, found.clone()).double(), 2 * expected, atol=2e-5)


@pytest.mark.parametrize("path", kernels.available())
def test_codes_are_those_of_the_quantizer(path: kernels.Instructions) -> None:
    from asrkit.quantization.integer import _quantizer_struct

    torch.manual_seed(0)
    for quantizer in (FixedQuantizer(4, 1.25), FixedQuantizer(4, 1.0, zero_aligned=False), FixedQuantizer(8, 3.0)):
        half = 2 ** (quantizer.bits - 1)
        # Ties between codes among them.
        x = torch.cat([2 * torch.randn(6, 70), torch.arange(-210, 210).view(6, 70) * quantizer.bound / 28])
        codes, sums = kernels.make_codes(path, _quantizer_struct(quantizer, half), x, 72)
        rows = codes[: 12 * 72].view(12, 72)
        assert torch.equal(rows[:, :70].long(), quantizer.codes(x) - half) and not rows[:, 70:].any()
        assert torch.equal(sums.long(), rows.long().sum(1))


def test_both_of_torchs_ways_are_exact() -> None:
    torch.manual_seed(0)
    for bits, k in ((4, 700), (8, 700)):
        codes, half = torch.randint(0, 2**bits, (33, k)), 2 ** (bits - 1)
        x = torch.randint(-half, half, (20, k))
        for kind in (FloatProducts, Int8Products):
            assert torch.equal(kind(codes.to(torch.uint8), bits)(x), x @ codes.T)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(700, 600), torch.randn(40, 600)
    weights, inputs = observed(MaxQuantizer(4, True), weight), FixedQuantizer(4, 2.0)
    product = product_of(monkeypatch, PATHS[-2] if len(PATHS) > 1 else None, weights.codes(weight), weights, inputs)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 2, 1):
            torch.set_num_threads(number)
            found += [product(x) for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from asrkit.quantization.kernels import chosen; print(chosen())"
    for asked in ("torch", "plain") if kernels.available() else ("torch",):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {kernels.CHOICE: asked}, capture_output=True, text=True
        )
        assert done.stdout.strip() == {"torch": "None", "plain": "0"}[asked]
    monkeypatch.setenv(kernels.CHOICE, "sse")
    with pytest.raises(UserError, match=r"ASRKIT_KERNEL=sse: here it can be .*torch"):
        kernels.chosen.__wrapped__()


@pytest.mark.parametrize("path", PATHS)
def test_nan_stays_nan(monkeypatch: pytest.MonkeyPatch, path: kernels.Instructions) -> None:
    weights, inputs = observed(MaxQuantizer(4, True), torch.randn(20, 30)), FixedQuantizer(4, 1.0)
    product = product_of(monkeypatch, path, weights.codes(torch.randn(20, 30)), weights, inputs)
    x = torch.zeros(3, 30)
    x[1, 4] = torch.nan
    found = product(x)
    assert found[1].isnan().all() and not found[[0, 2]].isnan().any()


def test_what_does_not_fit_is_refused() -> None:
    weights = observed(MaxQuantizer(4, True), torch.randn(20, 30))
    grid = Grid.of(weights, signed=False)
    assert grid is not None
    product = IntegerProduct(weights.codes(torch.randn(20, 30)).to(torch.uint8), grid, FixedQuantizer(4, 1.0), None, 4)
    with pytest.raises(ValueError, match=r"a product of 30 codes on the CPU got \(3, 31\)"):
        product(torch.zeros(3, 31))


@pytest.mark.skipif(not shutil.which("gcc") or not ctypes.util.find_library("asan"), reason="no gcc with ASan")
def test_nothing_reads_or_writes_past_its_memory(tmp_path: Path) -> None:
    """All paths, sizes that are multiples of nothing and arrays of exactly their sizes, under AddressSanitizer."""
    built = tmp_path / "w4a4.so"
    flags = ["-O1", "-g", "-std=gnu11", "-fPIC", "-shared", "-fsanitize=address,undefined"]
    source = ROOT / "asrkit" / "quantization" / "kernels" / "w4a4.c"
    subprocess.run(["gcc", *flags, str(source), "-o", str(built)], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    script = Path(__file__).with_name("memory_of_kernels.py")
    environment = os.environ | {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([sys.executable, script, built], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "runtime error" not in done.stderr, done.stdout + done.stderr
    assert done.stdout.strip().endswith("checked")
