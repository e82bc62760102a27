"""The transducer losses against torchaudio's and k2's: time, memory and accuracy, forward and backward, one thread.

Usage: .venv/bin/python tools/bench/transducer_loss.py [--json] [--repeats N]

k2 runs in an environment of its own (tools/k2_env.sh makes it); its runs take turns with ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torchaudio.functional import rnnt_loss

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import alternate, peak_in_new_process
from pruned_step import pruned_step

from asrkit.losses.transducer import transducer_loss
from asrkit.models.joiner import Joiner

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(8, 250, 40, 500), (8, 250, 100, 46), (4, 800, 200, 46)]
ROUNDS = 3
Shape = tuple[int, int, int, int]


def full_step(kind: str, shape: Shape, device: str = "cpu") -> Callable[[], torch.Tensor]:
    """Loss and gradient of the logits; returns the gradient."""
    batch, times, labels, symbols = shape
    torch.manual_seed(0)
    dtype = torch.float64 if kind == "float64" else torch.float32
    logits = torch.randn(batch, times, labels + 1, symbols).to(dtype)
    tokens = torch.randint(1, symbols, (batch, labels))
    lens = torch.full((batch,), times), torch.full((batch,), labels)
    logits, tokens, lens = logits.to(device), tokens.to(device), (lens[0].to(device), lens[1].to(device))

    def step() -> torch.Tensor:
        x = logits.detach().requires_grad_()
        if kind == "torchaudio":
            losses = rnnt_loss(x, tokens.int(), lens[0].int(), lens[1].int(), blank=0, reduction="sum")
        else:
            losses = transducer_loss(x, tokens, *lens, reduction="sum")
        losses.backward()
        assert x.grad is not None
        return x.grad

    return step


def joint_step(packed: bool, shape: Shape) -> Callable[[], None]:
    """Joiner and loss on utterances of 40 to 100 % of the length, frames and labels alike."""
    batch, times, labels, symbols = shape
    torch.manual_seed(0)
    joiner = Joiner(128, 128, 128, symbols, "add")
    shares = torch.linspace(0.4, 1.0, batch)
    frame_lens, token_lens = (times * shares).long(), (labels * shares).long()
    encoder_out, predictor_out = torch.randn(batch, times, 128), torch.randn(batch, labels + 1, 128)
    tokens = torch.randint(1, symbols, (batch, labels))

    def step() -> None:
        if packed:
            logits = joiner.packed(encoder_out, predictor_out, frame_lens, token_lens)
        else:
            logits = joiner(encoder_out, predictor_out)
        transducer_loss(logits, tokens, frame_lens, token_lens, reduction="sum").backward()

    return step


def grad_errors(shape: Shape) -> dict[str, float]:
    """Largest difference of each gradient from that of float64."""
    exact = full_step("float64", shape)()
    return {kind: (full_step(kind, shape)() - exact).abs().max().item() for kind in ("ours", "torchaudio")}


def k2_speedup(shape: Shape, repeats: int) -> float | None:
    """Seconds of k2's pruned loss in its own environment over ours here; None where k2 cannot be had."""
    ready = subprocess.run([ROOT / "tools" / "k2_env.sh"])
    if ready.returncode:
        return None
    script = [ROOT / ".venv-k2/bin/python", Path(__file__).with_name("pruned_step.py"), "k2", *shape, repeats]
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(alternate({"ours": pruned_step("ours", shape)}, repeats)["ours"])
        printed = subprocess.run([str(word) for word in script], check=True, capture_output=True, text=True)
        theirs.append(float(printed.stdout))
    return statistics.median(theirs) / statistics.median(ours)


def measure(shape: Shape, repeats: int) -> dict[str, object]:
    """All figures of one size."""
    seconds = alternate({kind: full_step(kind, shape) for kind in ("ours", "torchaudio")}, repeats)
    peaks = {kind: peak_in_new_process(full_step, kind, shape) for kind in ("ours", "torchaudio")}
    errors = grad_errors(shape)
    packed, padded = (peak_in_new_process(joint_step, packed, shape) for packed in (True, False))
    return {
        "shape": list(shape),
        "ours_s": round(seconds["ours"], 4),
        "full_speedup_vs_torchaudio": round(seconds["torchaudio"] / seconds["ours"], 2),
        "full_peak_memory_ratio": round(peaks["ours"] / peaks["torchaudio"], 3),
        "grad_error": errors["ours"],
        "torchaudio_grad_error": errors["torchaudio"],
        "packed_memory_ratio": round(packed / padded, 3),
        "pruned_speedup_vs_k2": k2_speedup(shape, repeats),
    }


def main() -> None:
    """Measures every size and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [measure(shape, arguments.repeats) for shape in SHAPES]
    table = Table(title="transducer loss, forward + backward, one thread")
    for name in cases[0]:
        table.add_column(name)
    for case in cases:
        table.add_row(*(f"{v:.2e}" if isinstance(v, float) and abs(v) < 1e-2 else str(v) for v in case.values()))
    Console(width=180).print(table)
    if arguments.json:
        print(json.dumps({"cases": cases}))


if __name__ == "__main__":
    main()
