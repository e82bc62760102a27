"""Learners that average with each other while some are killed, stopped, cut off, and while others join.

Usage: .venv/bin/python tools/bench/chaos.py [--seconds 120] [--learners 6] [--every 5] [--seed 1] [--json]

Learners on loopback, each one thread, fit a small network to a noisy one on a randomized ring: once without faults,
and once with a fault every few seconds, drawn from SIGKILL (the learner is started again and takes its weights from
another), SIGSTOP for a while (--stop), every connection dropped, and a new learner. A step sleeps for a fixed time, so
that a learner is not faster when another one leaves it a core. Throughput is updates per second of the learners alive:
from the first update until the learner is killed, excluding the time it is stopped. An update is lost if one of two
learners counts an average of both that the other does not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from asrkit.distributed.flat import assign, flattened
from asrkit.distributed.gossip import Gossip
from asrkit.distributed.membership import LeftBehind, Membership, tell_gone

STEP_S = 0.03
LR, BATCH, NOISE = 0.05, 64, 0.5
QUIET_S, END_LIMIT_S, HEARTBEAT_S = 2.0, 60.0, 5.0
KINDS = ("kill", "stop", "drop", "join")
SECRET = b"8 bytes."
INPUTS, HIDDEN = 32, 64


def network(seed: int) -> nn.Sequential:
    """A small network with random weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 8))


def examples(number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and a target network's outputs for them, with noise."""
    x = torch.randn(number, INPUTS, generator=generator)
    with torch.no_grad():
        y = 3 * network(1)(x)
    return x, y + NOISE * torch.randn(y.shape, generator=generator)


def learn(port: int, rank: int, expected: int, folder: Path) -> None:
    """One learner, until all are told to end."""
    torch.set_num_threads(1)
    store = dist.PrefixStore("chaos", dist.TCPStore("127.0.0.1", port, None, False))
    module = network(2)
    membership = Membership(store, rank, expected, HEARTBEAT_S)
    gossip = Gossip(flattened(module), membership, "random_ring", 1, SECRET, "127.0.0.1", record=True)
    signal.signal(signal.SIGUSR1, lambda number, frame: gossip.drop_connections())
    if membership.joins_later:
        weights = gossip.fetch()
        if weights is not None:
            gossip.put(weights)
        membership.met = int(store.get("meetings"))
        membership.admit()
        gossip.open()
    else:
        gossip.open()
        membership.meet("begin")
    generator = torch.Generator().manual_seed(1000 * rank + membership.incarnation)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    weights = gossip.weights()
    with open(folder / f"updates-{rank}-{membership.incarnation}", "wb", buffering=0) as updates:
        while not store.check(["end"]):
            assign(module, weights)
            x, y = examples(BATCH, generator)
            optimizer.zero_grad()
            nn.functional.mse_loss(module(x), y).backward()
            optimizer.step()
            time.sleep(STEP_S)
            weights = gossip.step(flattened(module) - weights)
            updates.write(f"{time.time()}\n".encode())
    try:
        gossip.pause()
        membership.meet("settle")
        gossip.settle()
        membership.meet("done")
    except LeftBehind:
        return  # it joined when the others were ending
    record = {
        "weights": gossip.weights(),
        "incarnation": membership.incarnation,
        "added": gossip.added,
        "agreed": {who: asked.agreed for who, asked in gossip.asked.items()},
        "taken_back": gossip.tally.taken_back,
        "exchanges": gossip.tally.exchanges,
    }
    torch.save(record, folder / f"end-{rank}.pt")
    membership.meet("end")
    gossip.close()
    membership.close()


@dataclass
class World:
    """The learners of a run."""

    learners: int
    folder: Path
    stop_s: float
    """How long a learner is stopped."""
    store: Any = field(default_factory=lambda: dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False))
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    away: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """By rank, when it was stopped and when it continued."""
    stopped: dict[int, float] = field(default_factory=dict)
    """Learners that are stopped now, and since when."""
    faults: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def start(self, rank: int) -> None:
        """Starts a learner."""
        words = [__file__, "--learn", self.store.port, rank, self.learners, self.folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.processes[rank] = subprocess.Popen([sys.executable, *map(str, words)], env=environment)

    def started(self, rank: int) -> bool:
        """Whether its present process has made an update."""
        count = self.store.add(f"chaos/incarnation/{rank}", 0)
        path = self.folder / f"updates-{rank}-{count}"
        return path.exists() and path.stat().st_size > 0

    def disturb(self, random: random.Random) -> None:
        """One fault."""
        running = [rank for rank in self.processes if self.started(rank) and rank not in self.stopped]
        if not running:
            return
        kind = random.choice(KINDS if len(self.processes) < self.learners + 3 else KINDS[:3])
        rank = random.choice(running)
        process, now = self.processes[rank], time.time()
        self.faults[kind] += 1
        if kind == "kill":
            process.kill()
            process.wait()
            tell_gone(dist.PrefixStore("chaos", self.store), rank)
            self.start(rank)
        elif kind == "stop":
            process.send_signal(signal.SIGSTOP)
            self.stopped[rank] = now
        elif kind == "drop":
            process.send_signal(signal.SIGUSR1)
        else:
            self.start(max(self.processes) + 1)

    def let_go_on(self) -> None:
        """Continues learners that have been stopped for long enough."""
        for rank, since in list(self.stopped.items()):
            if time.time() - since > self.stop_s:
                self.processes[rank].send_signal(signal.SIGCONT)
                self.away[rank].append((since, time.time()))
                del self.stopped[rank]

    def end(self) -> tuple[int, int]:
        """Tells all to end; how many had to be killed, and how many ended with an error."""
        self.store.set("chaos/end", "1")
        deadline, hung, failed = time.monotonic() + END_LIMIT_S, 0, 0
        for process in self.processes.values():
            try:
                failed += process.wait(max(0.1, deadline - time.monotonic())) != 0
            except subprocess.TimeoutExpired:
                process.kill()
                hung += 1
        return hung, failed


def run(learners: int, seconds: float, every: float, stop_s: float, seed: int, folder: Path) -> dict[str, Any]:
    """Runs learners for ``seconds``, with a fault every ``every`` seconds; none if 0."""
    world, draws = World(learners, folder, stop_s), random.Random(seed)
    for rank in range(learners):
        world.start(rank)
    while not all(world.started(rank) for rank in range(learners)):
        time.sleep(0.1)
    begun = time.time()
    while (now := time.time() - begun) < seconds:
        if every and now > every * (1 + sum(world.faults.values())) and seconds - now > QUIET_S + stop_s:
            world.disturb(draws)
        world.let_go_on()
        time.sleep(0.1)
    hung, failed = world.end()
    updates = alive_s = longest = 0.0
    for path in folder.glob("updates-*"):
        times = list(map(float, path.read_text().splitlines()))
        away = world.away[int(path.name.split("-")[1])]
        stopped = sum(until - since for since, until in away if times and times[0] < since < times[-1])
        steps = [until - since for since, until in itertools.pairwise(times)]
        longest = max([longest, *sorted(steps)[: len(steps) - sum(times[0] < since < times[-1] for since, _ in away)]])
        updates += len(steps)
        alive_s += (times[-1] - times[0] - stopped) if times else 0.0
    ends = {int(path.stem.split("-")[1]): torch.load(path, weights_only=False) for path in folder.glob("end-*.pt")}
    return {
        "faults": world.faults,
        "hangs": hung,
        "failed": failed,
        "throughput": updates / alive_s,
        "longest_step_s": longest,
        "loss": loss(torch.stack([end["weights"] for end in ends.values()]).mean(0)),
        "lost_updates": lost(ends),
        "learners": len(ends),
        "exchanges": sum(end["exchanges"] for end in ends.values()),
        "taken_back": sum(end["taken_back"] for end in ends.values()),
    }


def lost(ends: dict[int, dict[str, Any]]) -> int:
    """Averages that one of two learners counts and the other does not, among those present at the end."""
    number = 0
    for rank, end in ends.items():
        for other, its in ends.items():
            added = set(end["added"].get((other, its["incarnation"]), []))
            number += len(added ^ set(its["agreed"].get((rank, end["incarnation"]), [])))
    return number


def loss(weights: torch.Tensor) -> float:
    """Loss of the mean model on separate examples, that of their noise included."""
    module = network(2)
    assign(module, weights)
    x, y = examples(20000, torch.Generator().manual_seed(7))
    with torch.no_grad():
        return float(nn.functional.mse_loss(module(x), y))


def main() -> None:
    """Prints the run without and with faults, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--learners", type=int, default=6)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two faults")
    parser.add_argument("--stop", type=float, default=10.0, help="seconds that a learner is stopped")
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    arguments = parser.parse_args()
    found = {}
    for name, every in (("without faults", 0.0), ("with faults", arguments.every)):
        with tempfile.TemporaryDirectory() as folder:
            given = arguments.learners, arguments.seconds, every, arguments.stop, arguments.seed
            found[name] = run(*given, Path(folder))
        print(f"{name}: {found[name]}", flush=True)
    calm, chaos = found["without faults"], found["with faults"]
    row = {
        "faults": sum(chaos["faults"].values()),
        "throughput_ratio": round(chaos["throughput"] / calm["throughput"], 4),
        "final_loss_ratio": round(chaos["loss"] / calm["loss"], 4),
        "hangs": chaos["hangs"],
        "lost_updates": chaos["lost_updates"],
        "failed": chaos["failed"] + calm["failed"],
    }
    print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.json:
        print(json.dumps(row))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--learn"]:
        learn(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
