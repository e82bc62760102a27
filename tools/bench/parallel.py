"""Four learners on AN4, one of them slowed: speed, loss at equal samples, and what mixing weights costs.

Usage: .venv/bin/python tools/bench/parallel.py [--data-dir egs/an4/data] [--stragglers 1 2 10] [--json]

Every strategy trains the same small conformer from the same start on the same utterances, once for each straggler: one
learner that sleeps, so that each of its steps takes 2 or 10 times as long as without a straggler. Speed is updates of
all learners per second of wall time, after the first epoch, from an epoch's first forward pass until the end of its
last one, without the measurement on dev. The loss is that of the mean model on dev.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.bundle.model_file import load_recognizer
from asrkit.config_files import load_config
from asrkit.data.batching import inference_batches
from asrkit.data.folder import DataFolder
from asrkit.data.loaders import BatchDataset
from asrkit.distributed.launch import launch
from asrkit.scoring.experiment import read_metrics
from asrkit.training.objective import TRANSDUCER, Trainable, TransducerObjective
from asrkit.training.phase import Phase
from asrkit.training.run import run_training
from asrkit.training.speech import MODEL
from asrkit.training.speech_data import read_data

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tools" / "bench" / "parallel.yaml"
STRATEGIES = {
    "ddp": ["train.parallel=ddp"],
    "dpsgd_ring": ["train.parallel=dpsgd", "train.mixing=ring"],
    "d1d": ["train.parallel=adpsgd", "train.mixing=average"],
    "adpsgd_ring": ["train.parallel=adpsgd", "train.mixing=ring"],
    "adpsgd_random_ring": ["train.parallel=adpsgd", "train.mixing=random_ring"],
}
STRAGGLERS = [1.0, 2.0, 10.0]
LEARNERS, SLOW = 4, 3


class Slowed(nn.Module):
    """An objective that sleeps at the start of each of its forward passes in training, and keeps when they were."""

    def __init__(self, objective: nn.Module, sleep_s: float) -> None:
        super().__init__()
        self.objective, self.sleep_s = objective, sleep_s
        self.times: list[tuple[float, float]] = []

    def forward(self, *arguments: Any) -> Any:
        """As the objective's."""
        began = time.time()
        time.sleep(self.sleep_s)
        losses = self.objective(*arguments)
        self.times.append((began, time.time()))
        return losses


def learn(data_dir: Path, exp_dir: Path, sleep_s: float, overrides: list[str]) -> None:
    """One learner's part of a training; called in each process."""
    rank = int(os.environ["RANK"])
    made: list[Slowed] = []

    def slowed(objective: nn.Module) -> nn.Module:
        made.append(Slowed(objective, sleep_s if rank == SLOW else 0.0))
        return made[0]

    torch.set_num_threads(1)
    run_training(load_config(CONFIG, overrides), data_dir, exp_dir, objective=slowed)
    (exp_dir / f"times-{rank}.json").write_text(json.dumps(made[0].times))


def dev_loss(model: Path, data_dir: Path) -> float:
    """Mean transducer loss of an utterance of dev."""
    bundle = load_recognizer(model)
    data = read_data(bundle.config, DataFolder(data_dir), bundle)
    dataset = BatchDataset(data.dev, [], data.dev_pipeline, bundle.tokenizer)
    module = Trainable(bundle.model, TransducerObjective(bundle.config.loss, bundle.model)).eval()
    with torch.no_grad():
        sums = [
            module(dataset.load(part), Phase(TRANSDUCER)) for part in inference_batches(data.dev.durations_s, 100.0)
        ]
    return float(sum(losses.total.item() for losses in sums) / sum(losses.number for losses in sums))


def train(strategy: str, sleep_s: float, data_dir: Path, folder: Path) -> dict[str, float]:
    """Trains with a straggler, and returns the figures."""
    exp_dir = folder / f"{strategy}-{sleep_s:.3f}"
    (exp_dir / "log").mkdir(parents=True)
    overrides = STRATEGIES[strategy]
    arguments = [str(Path(__file__).resolve()), "--learn", str(data_dir), str(exp_dir), str(sleep_s), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    starter = [sys.executable, __file__, "--launch", str(exp_dir / "log"), strategy, *arguments]
    subprocess.run(starter, check=True, env=environment, stdout=subprocess.DEVNULL)
    lines = read_metrics(exp_dir / "metrics.jsonl")
    times = sorted(
        tuple(pair) for rank in range(LEARNERS) for pair in json.loads((exp_dir / f"times-{rank}.json").read_text())
    )
    updates = [LEARNERS * line["updates"] for line in lines]
    speeds, first = [], updates[0]
    for number in updates[1:]:  # an epoch lasts from the first forward pass until the last one ends
        of_epoch = times[first : first + number]
        speeds.append(number / (max(ended for _, ended in of_epoch) - of_epoch[0][0]))
        first += number
    steps = sum(line["updates"] for line in lines)
    mixing_s = sum(line.get("learners", {}).get("mixing_s", 0.0) for line in lines)
    return {
        "speed": sum(speeds) / len(speeds),
        "step_s": sum(line["seconds"] for line in lines) / steps,
        "loss": dev_loss(exp_dir / MODEL, data_dir),
        "mixing_share": mixing_s / sum(line["seconds"] for line in lines),
        "staleness": lines[-1].get("learners", {}).get("staleness", 0.0),
    }


def main() -> None:
    """Prints one row per strategy and straggler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--data-dir", type=Path, help="AN4 as egs/an4/run.sh prepares it; prepared here if not given")
    parser.add_argument("--stragglers", type=float, nargs="+", default=STRAGGLERS, help="how much slower; 1 first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data_dir = arguments.data_dir or Path(name) / "data"
        prepare = [ROOT / "egs/an4/run.sh", "--stop-stage", "2", "--config", CONFIG]
        prepare += ["--data-dir", data_dir, "--exp-dir", Path(name) / "exp"]
        subprocess.run(list(map(str, prepare)), check=True, stdout=subprocess.DEVNULL)
        rows: list[dict[str, Any]] = []
        for strategy in STRATEGIES:
            alone: dict[str, float] = {}
            for straggler in arguments.stragglers:
                sleep_s = (straggler - 1) * alone.get("step_s", 0.0)
                found = train(strategy, sleep_s, data_dir, Path(name))
                alone = alone or found
                ddp_loss = rows[0]["loss"] if rows else found["loss"]
                rows.append(
                    {
                        "strategy": strategy,
                        "straggler": straggler,
                        "updates_per_s": round(found["speed"], 2),
                        "relative_speed": round(found["speed"] / alone["speed"], 3),
                        "loss": round(found["loss"], 3),
                        "loss_ratio": round(found["loss"] / ddp_loss, 4),
                        "mixing_share": round(found["mixing_share"], 4),
                        "staleness": round(found["staleness"], 2),
                    }
                )
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if arguments.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--learn"]:
        learn(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
    elif sys.argv[1:2] == ["--launch"]:
        restart = sys.argv[3].startswith("adpsgd")
        sys.exit(launch(LEARNERS, sys.argv[4:], Path(sys.argv[2]), restart))
    else:
        main()
