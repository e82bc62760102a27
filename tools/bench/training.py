"""How fast models train: seconds of speech a second of a whole step (features in memory, both losses, AdamW).

Usage: .venv/bin/python tools/bench/training.py [--json] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from lhotse import CutSet

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import alternate

from asrkit.config_files import load_config
from asrkit.data.batching import Batch
from asrkit.models.transducer import num_parameters
from asrkit.training.build import build_model
from asrkit.training.cpu import restart_with_allocator
from asrkit.training.objective import transducer_objective
from asrkit.training.steps import autocast as autocast_context

CONFIG = Path(__file__).resolve().parents[2] / "conf" / "model" / "conformer_4m.yaml"
DURATION_S, LABELS, SYMBOLS = 4.0, 25, 100


def training_step(batch_seconds: float, autocast: str, overrides: list[str]) -> tuple[Callable[[], float], int]:
    """A function that makes one update on random features, and the number of parameters it trains."""
    config = load_config(CONFIG, ["loss.ctc_weight=0.3", *overrides])
    torch.manual_seed(0)
    model = build_model(config, SYMBOLS)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    objective = transducer_objective(config.loss)
    size, frames = round(batch_seconds / DURATION_S), round(100 * DURATION_S)
    # Lengths spread as those of a bucket.
    feature_lens = torch.linspace(0.9 * frames, frames, size).long()
    batch = Batch(
        torch.randn(size, frames, config.features.num_mel_bins), feature_lens,
        torch.randint(1, SYMBOLS, (size, LABELS)), torch.full((size,), LABELS), CutSet(), {},
    )  # fmt: skip

    def step() -> float:
        with autocast_context(torch.device("cpu"), autocast):
            losses = objective(model, batch, 1)
        (losses.total / size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(feature_lens.sum()) / 100

    return step, num_parameters(model)


def main() -> None:
    """Prints the speed of the 4 M conformer, in float32 and under bf16 autocast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    restart_with_allocator(sys.argv)  # as asrkit train does
    made = {autocast: training_step(80, autocast, []) for autocast in ("none", "bf16")}
    seconds = alternate({name: step for name, (step, _) in made.items()}, arguments.repeats, warm_up=2)
    speeds = {name: step() / seconds[name] for name, (step, _) in made.items()}
    size = made["none"][1]
    for name, speed in speeds.items():
        print(f"conformer of {size:,} parameters, autocast {name}: {speed:.0f} s of speech a second")
    if arguments.json:
        best = max(speeds, key=lambda name: speeds[name])
        print(json.dumps({"model": f"conformer, {size} parameters, autocast {best}",
                          "speech_seconds_per_second": round(speeds[best], 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
