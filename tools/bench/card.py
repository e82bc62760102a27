"""Loss, search and training on one device, a CUDA card or the CPU, with torchaudio's loss and search on the same one.

Usage: .venv/bin/python tools/bench/card.py [--device cuda] [--json] [--repeats N]

Ours and torchaudio's take turns. The search decodes random weights whose blank lets labels through at a natural rate;
torchaudio's takes one utterance at a time, so it is given two; ours takes them all at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import alternate
from peer_searches import torchaudio_search
from random_models import greedy_rate, set_label_rate, sharpen
from training import MODEL, MODELS, training_step
from transducer_loss import SHAPES, full_step

from asrkit.bundle.build import build_transducer
from asrkit.config_files import load_config
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search
from asrkit.devices import resolve_autocast

UTTERANCES, OF_TORCHAUDIO, FRAMES, LABELS_PER_FRAME, BEAM = 16, 2, 100, 0.4, 4
Row = dict[str, object]


def waited_for(function: Callable[[], object], device: str) -> Callable[[], object]:
    """``function``, and a wait until the device is done."""

    def run() -> object:
        result = function()
        if device != "cpu":
            torch.cuda.synchronize()
        return result

    return run


def losses(device: str, repeats: int) -> list[Row]:
    """Forward and backward over the full lattice."""
    rows: list[Row] = []
    for shape in SHAPES:
        kinds = ("ours", "torchaudio")
        seconds = alternate({k: waited_for(full_step(k, shape, device), device) for k in kinds}, repeats)
        error, theirs = (
            (full_step(kind, shape, device)() - full_step("float64", shape, device)()).abs().max().item()
            for kind in kinds
        )
        rows.append(
            {
                "shape": list(shape),
                "ours_ms": round(1000 * seconds["ours"], 2),
                "speedup_vs_torchaudio": round(seconds["torchaudio"] / seconds["ours"], 2),
                "grad_error": error,
                "torchaudio_grad_error": theirs,
            }
        )
    return rows


def searches(device: str, repeats: int) -> list[Row]:
    """Alignment-length synchronous search and torchaudio's, the same beam and weights."""
    torch.manual_seed(0)
    overrides = ["model.predictor.type=stateless"]
    model = build_transducer(load_config(MODELS / f"{MODEL}.yaml", overrides), 100).to(device).eval()
    with torch.no_grad():
        encoder_out = torch.randn(UTTERANCES, FRAMES, model.joiner.encoder_proj.in_features, device=device)
        sharpen(model)
        rate = set_label_rate(model, lambda: greedy_rate(model, encoder_out), LABELS_PER_FRAME)
        lens = torch.full((UTTERANCES,), FRAMES, device=device)
        options = BeamOptions(beam=BEAM)
        theirs = torchaudio_search(model, BEAM)
        runs: dict[str, Callable[[], object]] = {
            "ours": lambda: beam_search(model, encoder_out, lens, frame_shift_s=0.04, options=options),
            "torchaudio": lambda: theirs(list(encoder_out[:OF_TORCHAUDIO])),
        }
        seconds = alternate({k: waited_for(run, device) for k, run in runs.items()}, repeats)
    ours, theirs_s = seconds["ours"] / UTTERANCES, seconds["torchaudio"] / OF_TORCHAUDIO
    return [
        {
            "beam": BEAM,
            "labels_per_frame": round(rate, 2),
            "ours_ms_per_utterance": round(1000 * ours, 2),
            "speedup_vs_torchaudio": round(theirs_s / ours, 2),
        }
    ]


def trainings(device: str, repeats: int) -> list[Row]:
    """Seconds of speech per second in a complete step, by the size of an update."""
    rows: list[Row] = []
    for batch_seconds in (80, 400):
        for precision in sorted({"none", resolve_autocast(torch.device(device), "auto")}):
            step, parameters = training_step(batch_seconds, precision, device=device)
            seconds = alternate({"step": waited_for(step, device)}, repeats, warm_up=3)["step"]
            rows.append(
                {
                    "model": f"{MODEL}, {parameters:,} parameters",
                    "batch_seconds": batch_seconds,
                    "autocast": precision,
                    "step_ms": round(1000 * seconds, 1),
                    "speech_seconds_per_second": round(step() / seconds),
                }
            )
    return rows


def main() -> None:
    """Measures all three and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = arguments.device
    name = torch.cuda.get_device_name() if device != "cpu" else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    result: Row = {"device": name, "torch": torch.__version__}
    print(f"{name}, torch {torch.__version__}", flush=True)
    for part, measure in {"loss": losses, "search": searches, "training": trainings}.items():
        rows = measure(device, arguments.repeats)
        result[part] = rows
        for row in rows:
            print(part, ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
