"""The DSS kernel and its convolution against the plain Vandermonde formula: time and memory, forward and backward.

Usage: .venv/bin/python tools/bench/dss.py [--json] [--repeats N]

``growth_over_L_log_L`` compares our times with that of the shortest length: at most 1 is no faster than L log L.
``step_ratio`` is the time of a DSSformer's training step over that of a conformer of equal depth and width.
Both train as with ``train.autocast=auto``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import alternate, peak_in_new_process
from training import BOTH_LOSSES, training_step

from asrkit.cpu import restart_with_allocator
from asrkit.devices import resolve_autocast
from asrkit.models.dss import DssKernel, convolve

CHANNELS, STATES = 768, 96
LENGTHS = (250, 1000, 4000)


def filter_step(kind: str, length: int) -> Callable[[], float]:
    """Kernel and convolution of one utterance with all gradients."""
    torch.manual_seed(0)
    kernel = DssKernel(CHANNELS, STATES, "linear", "exp", bidirectional=False)
    x = torch.randn(1, length, CHANNELS, requires_grad=True)

    def plain() -> torch.Tensor:
        re, im = kernel.eigenvalues()
        eigenvalue = torch.complex(re, im)
        exponent = eigenvalue * kernel.log_step.exp()[:, None]  # (H, N)
        coefficient = torch.complex(kernel.weight[0], kernel.weight[1]) * torch.expm1(exponent) / eigenvalue
        powers = torch.exp(exponent[:, :, None] * torch.arange(length))  # (H, N, L)
        return torch.einsum("shn,hnl->shl", coefficient, powers).real

    def step() -> float:
        filters = kernel(length) if kind == "ours" else plain()
        loss = convolve(x, filters).square().mean()
        loss.backward()
        return loss.item()

    return step


def step_ratio(repeats: int) -> float:
    """Time of a DSSformer's training step over a conformer's, on all cores."""
    autocast = resolve_autocast(torch.device("cpu"), "auto")
    kinds = ("conformer", "dssformer")
    steps = {kind: training_step(80, autocast, [*BOTH_LOSSES, f"model.encoder.type={kind}"])[0] for kind in kinds}
    seconds = alternate(steps, repeats, warm_up=2)
    return round(seconds["dssformer"] / seconds["conformer"], 3)


def main() -> None:
    """Measures every length and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    restart_with_allocator(sys.argv)  # as asrkit train does
    cases = []
    torch.set_num_threads(1)
    for length in LENGTHS:
        seconds = alternate({kind: filter_step(kind, length) for kind in ("ours", "plain")}, arguments.repeats)
        peaks = {kind: peak_in_new_process(filter_step, kind, length) for kind in ("ours", "plain")}
        cases.append(
            {
                "L": length,
                "ours_s": round(seconds["ours"], 4),
                "speedup": round(seconds["plain"] / seconds["ours"], 2),
                "memory_ratio": round(peaks["ours"] / peaks["plain"], 4),
            }
        )
        print(f"H {CHANNELS}, N {STATES}: {cases[-1]}")
    first = cases[0]
    for case in cases[1:]:
        expected = case["L"] * math.log(case["L"]) / (first["L"] * math.log(first["L"]))
        case["growth_over_L_log_L"] = round(case["ours_s"] / first["ours_s"] / expected, 3)
        print(f"L {case['L']}: time has grown {case['growth_over_L_log_L']} times as much as L log L from {first['L']}")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ratio = pool.apply(step_ratio, (2 * arguments.repeats,))
    print(f"training step, DSSformer over conformer: {ratio}")
    if arguments.json:
        print(json.dumps({"cases": cases, "step_ratio": ratio}))


if __name__ == "__main__":
    main()
