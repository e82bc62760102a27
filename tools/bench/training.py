"""How fast models train: seconds of speech per second in a complete step (features in memory, both losses, AdamW).

Usage: .venv/bin/python tools/bench/training.py [--json] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lhotse import CutSet

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import alternate

from asrkit.bundle.build import build_transducer, feature_dim
from asrkit.config_files import load_config
from asrkit.cpu import restart_with_allocator
from asrkit.data.batching import Batch
from asrkit.devices import autocast as autocast_context
from asrkit.devices import resolve_autocast
from asrkit.models.transducer import num_parameters
from asrkit.training.objective import TRANSDUCER, Trainable, TransducerObjective
from asrkit.training.phase import Phase

MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
BOTH_LOSSES = ("loss.ctc_weight=0.3",)
MODEL, HALF_RATE = "conformer_4m", "fast_conformer_4m"


@dataclass(frozen=True)
class Speech:
    """What training utterances are like."""

    duration_s: float = 4.0
    labels: int = 25
    symbols: int = 100


def training_step(
    batch_seconds: float,
    autocast: str,
    overrides: Sequence[str] = BOTH_LOSSES,
    path: Path = MODELS / f"{MODEL}.yaml",
    device: str = "cpu",
    speech: Speech = Speech(),
) -> tuple[Callable[[], float], int]:
    """A function that makes one update on random features and returns their seconds, and the parameters it trains."""
    config = load_config(path, overrides)
    torch.manual_seed(0)
    model = build_transducer(config, speech.symbols)
    module = Trainable(model, TransducerObjective(config.loss, model)).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    size, frames_per_s = round(batch_seconds / speech.duration_s), 100 / config.features.stacking
    frames = round(frames_per_s * speech.duration_s)
    # Lengths spread as those of a bucket.
    feature_lens = torch.linspace(0.9 * frames, frames, size).long()
    batch = Batch(
        torch.randn(size, frames, feature_dim(config)),
        feature_lens,
        torch.randint(1, speech.symbols, (size, speech.labels)),
        torch.full((size,), speech.labels),
        CutSet(),
        {},
    ).to(torch.device(device))

    def step() -> float:
        with autocast_context(torch.device(device), autocast):
            losses = module(batch, Phase(TRANSDUCER))
        (losses.total / size).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(feature_lens.sum()) / frames_per_s

    return step, num_parameters(module)


def main() -> None:
    """Prints the speeds of the 4 M conformer and of the one at half its rate, in float32 and bf16 (if available)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    restart_with_allocator(sys.argv)  # as asrkit train does
    best, best_speed = "", 0.0
    made = {
        f"{name}, autocast {autocast}": training_step(80, autocast, path=MODELS / f"{name}.yaml")
        for name in (MODEL, HALF_RATE)
        for autocast in sorted({"none", resolve_autocast(torch.device("cpu"), "auto")})
    }
    seconds = alternate({name: step for name, (step, _) in made.items()}, arguments.repeats, warm_up=2)
    for name, (step, size) in made.items():
        speed = step() / seconds[name]
        print(f"{name}, {size:,} parameters: {speed:.0f} s of speech a second")
        if name.startswith(MODEL) and speed > best_speed:
            best, best_speed = f"{name}, {size} parameters", speed
    if arguments.json:
        print(json.dumps({"model": best, "speech_seconds_per_second": round(best_speed, 1)}))


if __name__ == "__main__":
    main()
