"""Planning an epoch of ten million utterances: time, memory, resuming, and padding against Lhotse's sampler.

Usage: .venv/bin/python tools/bench/sampling.py [--cuts 10000000] [--corpora DIR ...] [--json]

Synthetic utterances have the lengths of read speech; arrays are memory-mapped files, as in training. Each size runs in
its own process, whose peak memory is that of Python and all it has loaded. Padding is that of real corpora: every
audio file under each DIR is an utterance.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
CORPORA = [
    ROOT / "egs" / "an4" / "corpus" / "wav",
    ROOT.parent / "shared" / "data" / "librispeech" / "LibriSpeech" / "train-clean-5",
]
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
RATE = 0.1
BATCH_SECONDS = 600.0
PADDED_BATCH_SECONDS = 90.0


def synthetic(number: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Memory-mapped durations and label counts."""
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.gamma(6.0, 2.0, number), 1.0, 35.0)
    np.save(folder / "durations_s.npy", seconds)
    np.save(folder / "num_tokens.npy", (4 * seconds).astype(np.int32))
    durations_s, num_tokens = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("durations_s", "num_tokens"))
    return durations_s, num_tokens


def plan(number: int) -> dict[str, float]:
    """Times to plan a full epoch, to draw and plan a share, and to step into the middle."""
    from asrkit.data.batching import BatchBudget, plan_epoch
    from asrkit.data.soft_random_sampling import soft_random_sample

    budget = BatchBudget(BATCH_SECONDS, 10**12, 1, vocab_size=500, frame_shift_s=0.04)
    with tempfile.TemporaryDirectory() as name:
        lengths = synthetic(number, Path(name))
        plan_epoch(lengths[0][:1000], lengths[1][:1000], budget, seed=1, epoch=1)  # warm
        started = time.perf_counter()
        whole = plan_epoch(*lengths, budget, seed=1, epoch=1)
        planned = time.perf_counter()
        middle = whole[len(whole) // 2]
        resumed = time.perf_counter()
        drawn = soft_random_sample(number, RATE, 1, 1).numpy()
        share = plan_epoch(*lengths, budget, seed=1, epoch=1, drawn=drawn)
        ended = time.perf_counter()
    assert sum(map(len, middle)) > 1 and len(share) < len(whole)
    return {
        "cuts": number,
        "seconds": planned - started,
        "resume_s": resumed - planned,
        "draw_seconds": ended - resumed,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def lhotse_batches(seconds: np.ndarray, batch_seconds: float) -> tuple[list[list[float]], float]:
    """Lhotse's bucketing sampler over cuts in memory: the durations of each batch, and the time."""
    from lhotse import CutSet, MonoCut
    from lhotse.dataset.sampling import DynamicBucketingSampler
    from lhotse.testing.dummies import dummy_recording

    recording = dummy_recording(0, duration=60.0)
    cuts = CutSet.from_cuts(
        MonoCut(id=str(n), start=0.0, duration=s, channel=0, recording=recording)
        for n, s in enumerate(seconds.tolist())
    )
    started = time.perf_counter()
    sampler = DynamicBucketingSampler(cuts, max_duration=batch_seconds, num_buckets=10, shuffle=True, seed=1)
    batches = [[cut.duration for cut in batch] for batch in sampler]
    return batches, time.perf_counter() - started


def padding(seconds: np.ndarray) -> tuple[float, float, float]:
    """Seconds of speech, and padded seconds of our plan and of Lhotse's, means of five epochs."""
    from asrkit.data.batching import BatchBudget, plan_epoch

    budget = BatchBudget(PADDED_BATCH_SECONDS, 10**12, 1, vocab_size=30, frame_shift_s=0.04)
    ours = np.mean(
        [
            plan_epoch(seconds, np.ones(len(seconds), np.int32), budget, seed=1, epoch=epoch).padding_share()
            for epoch in range(1, 6)
        ]
    )
    batches, _ = lhotse_batches(seconds, PADDED_BATCH_SECONDS)
    total = float(seconds.sum())
    return total, total / (1 - float(ours)), float(sum(len(batch) * max(batch) for batch in batches))


def main() -> None:
    """Prints a table, and with ``--json`` the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=SIZES[-1], help="of the largest set")
    parser.add_argument("--corpora", type=Path, nargs="*", default=CORPORA, help="folders of audio files")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    arguments = parser.parse_args()
    rows = []
    print(f"{'cuts':>11} {'plan s':>8} {'µs a cut':>9} {'middle s':>9} {f'draw {RATE} s':>10} {'GiB':>6}")
    for number in [size for size in SIZES if size < arguments.cuts] + [arguments.cuts]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(plan, (number,))
        rows.append(row)
        print(
            f"{number:11d} {row['seconds']:8.3f} {1e6 * row['seconds'] / number:9.2f} {row['resume_s']:9.5f} "
            f"{row['draw_seconds']:10.3f} {row['gib']:6.2f}",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as name:
        _, lhotse_s = lhotse_batches(np.array(synthetic(100_000, Path(name))[0]), BATCH_SECONDS)
    of_100k = next((row["seconds"] for row in rows if row["cuts"] == 100_000), None)
    ratio = f", {lhotse_s / of_100k:.0f} times ours" if of_100k else ""
    print(f"100,000 cuts by Lhotse's sampler: {lhotse_s:.2f} s{ratio}")
    sums, shares = np.zeros(3), dict[str, list[float]]()
    for folder in filter(Path.is_dir, arguments.corpora):
        files = [path for path in folder.rglob("*.*") if path.suffix in (".wav", ".flac", ".ogg", ".sph")]
        seconds = np.array([soundfile.info(path).duration for path in files])
        row_of = padding(seconds)
        sums += row_of
        shares[folder.name] = [1 - row_of[0] / padded for padded in row_of[1:]]
        print(f"padding of {folder}: ours {shares[folder.name][0]:.2%}, Lhotse's {shares[folder.name][1]:.2%}")
    if arguments.json:
        largest: dict[str, Any] = dict(rows[-1])
        of_all = [float(1 - sums[0] / padded) if padded else None for padded in sums[1:]]
        print(
            json.dumps(
                largest
                | {"padding_share": of_all[0], "lhotse_padding_share": of_all[1], "lhotse_seconds_100k": lhotse_s}
                | {"sizes": rows, "padding_by_corpus": shares}
            )
        )


if __name__ == "__main__":
    main()
