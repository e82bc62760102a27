"""Time and memory of transcribing one long recording: the peak must not grow with the square of its length.

Usage: tools/bench/long_audio.py MODEL [--audio DIR] [--minutes 6,60] [--json]

The recording repeats the files of DIR (AN4's test speakers unless given) back to back. Each length and search runs in
its own process; the peak is that of the complete process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
AUDIO = ROOT / "egs" / "an4" / "corpus" / "wav" / "an4test_clstk"
SEARCHES = (("greedy", 1), ("beam", 4), ("modified_beam", 4))


def transcribe(model: Path, audio: Path, minutes: int, method: str, beam: int) -> dict[str, Any]:
    """Transcribes this many minutes, in the process to be measured."""
    from asrkit.export.recognizer import Recognizer, read_audio

    recognizer = Recognizer(model, method, beam)
    rate = recognizer.pipeline.sampling_rate_hz
    pieces = [read_audio(path, rate) for path in sorted(audio.rglob("*.*")) if path.suffix in (".ogg", ".wav", ".flac")]
    once = torch.cat(pieces)
    waveform = once.repeat(-(-minutes * 60 * rate // len(once)))[: minutes * 60 * rate]
    start = time.perf_counter()
    found = recognizer.recognize(waveform)
    seconds = time.perf_counter() - start
    return {
        "minutes": minutes,
        "search": method,
        "beam": beam,
        "seconds": seconds,
        "rtf": seconds / (60 * minutes),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "symbols": len(found.tokens),
    }


def main() -> None:
    """Prints a table, and with ``--json`` the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--audio", type=Path, default=AUDIO)
    parser.add_argument("--minutes", default="6,60")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    print(f"{'minutes':>8} {'search':>14} {'beam':>5} {'seconds':>9} {'rtf':>8} {'peak MiB':>9} {'symbols':>8}")
    for minutes in map(int, arguments.minutes.split(",")):
        for method, beam in SEARCHES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(transcribe, (arguments.model, arguments.audio, minutes, method, beam))
            rows.append(row)
            print(
                f"{minutes:8d} {method:>14} {beam:5d} {row['seconds']:9.1f} {row['rtf']:8.4f} {row['peak_mib']:9.0f} "
                f"{row['symbols']:8d}",
                flush=True,
            )
    if arguments.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
