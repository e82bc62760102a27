"""Memory and time of ``asrkit prepare`` on a manifest of many segments of a few recordings.

Usage: .venv/bin/python tools/bench/prepare_scale.py [--segments N]... [--json]

Without --segments: 250,000, 500,000 and 2,000,000. The manifest is in NeMo's format, its segments overlap, and the
recordings are noise; memory is the peak of the command's process, its helpers not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RECORDINGS = 20
RATE_HZ = 8000
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def write_corpus(folder: Path, segments: int) -> None:
    """A manifest of one-second segments, each a few milliseconds after the previous one."""
    rng = np.random.default_rng(0)
    each = segments // RECORDINGS
    step_s = 0.002
    for n in range(RECORDINGS):
        samples = rng.normal(0, 0.1, int(RATE_HZ * (each * step_s + 2)))
        soundfile.write(folder / f"r{n:02}.wav", samples, RATE_HZ, subtype="PCM_16")
    with open(folder / "manifest.jsonl", "w", encoding="utf-8") as file:
        for k in range(each * RECORDINGS):
            recording, number = divmod(k, each)
            values = {
                "id": f"r{recording:02}-{number:06}",
                "audio_filepath": f"r{recording:02}.wav",
                "offset": round(number * step_s, 3),
                "duration": 1.0,
                "text": f"{WORDS[k % 10]} {WORDS[k // 10 % 10]} {WORDS[k // 100 % 10]}",
                "speaker": f"s{number % 400:03}",
            }
            file.write(json.dumps(values) + "\n")


def prepare(corpus: Path, data_dir: Path) -> tuple[float, float]:
    """Peak MiB and seconds of the command in a process of its own."""
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        command = [sys.executable, "-m", "asrkit", "prepare", "nemo", "--corpus-dir", str(corpus)]
        os.execv(sys.executable, [*command, "--data-dir", str(data_dir)])
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"asrkit prepare failed with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def main() -> None:
    """Prints one line per number of segments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, action="append", help="number of segments; may be repeated")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    arguments = parser.parse_args()
    rows = []
    for segments in arguments.segments or [250_000, 500_000, 2_000_000]:
        with tempfile.TemporaryDirectory() as name:
            corpus = Path(name, "corpus")
            corpus.mkdir()
            write_corpus(corpus, segments)
            mib, seconds = prepare(corpus, Path(name, "data"))
        rows.append({"segments": segments, "peak_mib": round(mib), "seconds": round(seconds, 1)})
        print(f"{segments:,} segments: {mib:,.0f} MiB, {seconds:.0f} s", flush=True)
    if arguments.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
