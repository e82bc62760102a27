"""Throughput of up to 1,024 learners by an event-driven clock, with a straggler and with faults.

Usage: .venv/bin/python tools/bench/learners_clock.py [--measured FILE] [--figure FILE] [--json]

FILE is the last line that tools/bench/parallel.py --json printed: the measured speeds of four learners are shown next
to the clock's.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from asrkit.distributed.timing import STRATEGIES, Cluster, Fault, simulate_timing
from asrkit.figures import figure

LEARNERS = (4, 16, 64, 256, 1024)
STRAGGLERS = (1.0, 2.0, 5.0, 10.0, 100.0)
MEASURED = {
    "ddp": "ssgd",
    "dpsgd_ring": "dpsgd_ring",
    "d1d": "d1d",
    "adpsgd_ring": "ring",
    "adpsgd_random_ring": "random_ring",
}
"""The clock's name of what tools/bench/parallel.py measures."""
ROUNDS = 200


def speed(args: argparse.Namespace, strategy: str, learners: int, slow: float = 1.0, faults: int = 0) -> float:
    """Updates of all learners, in units of those of one alone."""
    compute_s: float = args.compute_s
    away = [Fault(k, 10.0 * compute_s * (k + 1), 30.0 * compute_s) for k in range(faults)]
    cluster = Cluster(
        learners,
        compute_s,
        slow={0: slow} if slow > 1 else {},
        message_s=args.message_s,
        latency_s=args.latency_s,
        faults=away,
    )
    return simulate_timing(strategy, cluster, ROUNDS * learners).throughput * compute_s


def main() -> None:
    """Prints the tables, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute-s", type=float, default=1.0, help="of a gradient and its step")
    parser.add_argument("--message-s", type=float, default=0.1, help="of all weights between two learners")
    parser.add_argument("--latency-s", type=float, default=0.0005, help="of any message")
    parser.add_argument("--measured", type=Path, help="what tools/bench/parallel.py --json printed last")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    started = time.perf_counter()
    even = {s: [speed(args, s, n) for n in LEARNERS] for s in STRATEGIES}
    uneven = {s: [speed(args, s, n, slow=10.0) for n in LEARNERS] for s in STRATEGIES}
    faulty = {s: [speed(args, s, n, faults=n // 4) for n in LEARNERS] for s in STRATEGIES}
    for title, table in (
        ("no straggler", even),
        ("one 10 times slower", uneven),
        ("a quarter is away for a while", faulty),
    ):
        print(f"{title}: speed of {', '.join(map(str, LEARNERS))} learners, in units of one alone")
        for strategy, speeds in table.items():
            print(f"  {strategy:12} " + "  ".join(f"{value:8.1f}" for value in speeds))
    relative = {s: [speed(args, s, 4, slow) / speed(args, s, 4) for slow in STRAGGLERS] for s in STRATEGIES}
    print(f"4 learners, one slowed by {', '.join(f'{s:g}' for s in STRAGGLERS)}: speed relative to none")
    for strategy, speeds in relative.items():
        print(f"  {strategy:12} " + "  ".join(f"{value:8.3f}" for value in speeds))
    rows = json.loads(args.measured.read_text().splitlines()[-1])["rows"] if args.measured else []
    for row in rows:
        said = relative[MEASURED[row["strategy"]]][STRAGGLERS.index(row["straggler"])]
        print(f"  measured {row['strategy']} {row['straggler']:g}: {row['relative_speed']}, clock {said:.3f}")
    print(f"{time.perf_counter() - started:.1f} s")
    if args.figure:
        with figure(args.figure, 1, 3) as panels:
            for strategy in STRATEGIES:
                (line,) = panels[0].plot(STRAGGLERS, relative[strategy], label=strategy)
                points = [row for row in rows if MEASURED[row["strategy"]] == strategy]
                panels[0].plot(
                    [row["straggler"] for row in points],
                    [row["relative_speed"] for row in points],
                    "o",
                    color=line.get_color(),
                )
                for axes, table in ((panels[1], even), (panels[2], uneven)):
                    axes.plot(LEARNERS, table[strategy], ".-", label=strategy)
            panels[0].set(
                xscale="log", xlabel="slow factor of one of 4 learners (dots: measured)", ylabel="relative speed"
            )
            panels[1].set(xscale="log", yscale="log", xlabel="learners", ylabel="speed", title="no straggler")
            panels[2].set(xscale="log", yscale="log", xlabel="learners", ylabel="speed", title="one 10 times slower")
            panels[0].legend()
    if args.json:
        print(
            json.dumps({"learners": LEARNERS, "even": even, "uneven": uneven, "faulty": faulty, "relative": relative})
        )


if __name__ == "__main__":
    main()
