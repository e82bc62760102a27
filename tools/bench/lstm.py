"""Our LSTM layer (asrkit/models/lstm.py) and torch's nn.LSTM, in turns on one thread: sequences and single steps.

Usage: .venv/bin/python tools/bench/lstm.py [--json] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import alternate

from asrkit.models.lstm import LstmLayer

SEQUENCES = ((16, 100, 256), (32, 25, 128), (8, 400, 640))
"""Utterances, frames or labels, width."""
STEPS = ((1, 128), (16, 128), (128, 128), (512, 128), (64, 640))
"""Histories, width."""


def pair(width: int) -> tuple[LstmLayer, nn.LSTM]:
    """Both with the same weights."""
    torch.manual_seed(0)
    ours, theirs = LstmLayer(width, width), nn.LSTM(width, width)
    for name, parameter in ours.named_parameters():
        getattr(theirs, f"{name}_l0").data.copy_(parameter)
    return ours, theirs


def sequence(batch: int, length: int, width: int) -> dict[str, Callable[[], object]]:
    """Forward and backward over a sequence."""
    ours, theirs = pair(width)
    x = torch.randn(length, batch, width)
    return {
        "ours": lambda: ours.run(x)[0].sum().backward(),
        "torch": lambda: theirs(x)[0].sum().backward(),
    }


def step(batch: int, width: int) -> dict[str, Callable[[], object]]:
    """One symbol of each of ``batch`` histories, whose states are (N, 1, H) as a search has kept them for torch."""
    ours, theirs = pair(width)
    x, h, c = (torch.randn(batch, width) for _ in range(3))
    state = h[:, None], c[:, None]

    def torchs() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        out, after = theirs(x[None], before)
        return out[0], tuple(part.transpose(0, 1) for part in after)

    def repeat(function: Callable[[], object]) -> Callable[[], None]:
        def many() -> None:
            with torch.inference_mode():
                for _ in range(20):
                    function()

        return many

    return {"ours": repeat(lambda: ours.step(x, (h, c))), "torch": repeat(torchs)}


def main() -> None:
    """Prints the ratio of each case, below 1 where ours is faster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = {f"sequence {'x'.join(map(str, shape))}": sequence(*shape) for shape in SEQUENCES}
    cases |= {f"step {'x'.join(map(str, shape))}": step(*shape) for shape in STEPS}
    rows = []
    for name, functions in cases.items():
        seconds = alternate(functions, arguments.repeats, warm_up=3)
        rows.append({"case": name, "ours_s": seconds["ours"], "torch_s": seconds["torch"]})
        print(f"{name:>22}: {seconds['ours'] / seconds['torch']:.2f} of torch's time")
    if arguments.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
