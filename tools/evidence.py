"""Trains the rows of a recipe's results one after another, and prints them as tables with their differences.

Usage: .venv/bin/python tools/evidence.py egs/RECIPE/evidence.yaml [--list] [--tables] [--figure FILE]
         [--only NAME]... [--minutes N]
         [-- OPTION ...]

The list gives the configurations, their seeds and the comparisons. A finished row is a small file in
egs/RECIPE/evidence/, with the errors of every utterance; commit it, and the list resumes on another machine. An
interrupted training resumes. --minutes starts no new row after that time. --figure draws WER against hours of speech
and against training time. Options after --, such as --corpus-dir, are passed to run.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from asrkit.config_files import load_config
from asrkit.devices import choose_device, resolve_autocast
from asrkit.figures import figure
from asrkit.files import write_text
from asrkit.scoring.experiment import read_experiment
from asrkit.scoring.nist import read_trn
from asrkit.scoring.report import score_trn
from asrkit.scoring.significance import Difference, paired_bootstrap
from asrkit.scoring.wer import Errors

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One training of the list."""

    system: str
    seed: int
    recipe: Path
    """Its folder."""
    config: Path
    arguments: tuple[str, ...]
    """Arguments of run.sh, in addition to the configuration and the seed."""

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return f"{self.system}_s{self.seed}"

    @property
    def exp_dir(self) -> Path:
        """Where it is trained."""
        return self.recipe / "exp" / self.name

    @property
    def result(self) -> Path:
        """The file that keeps its result."""
        return self.recipe / "evidence" / f"{self.name}.json"

    @property
    def command(self) -> list[str]:
        """The command that trains, decodes and scores it, from the top of the project."""
        paths = [os.path.relpath(path, ROOT) for path in (self.recipe / "run.sh", self.config, self.exp_dir)]
        return [paths[0], "--config", paths[1], "--exp-dir", paths[2], *self.arguments, f"train.seed={self.seed}"]


def read_rows(path: Path) -> tuple[list[Row], list[tuple[str, str]]]:
    """The rows of a list in the order in which they are trained, and which systems are compared."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe = path.resolve().parent
    shared = values.get("arguments", [])
    rows = [
        Row(
            name,
            seed,
            recipe,
            recipe / "conf" / f"{how.get('config', name)}.yaml",
            (*shared, *how.get("arguments", ())),
        )
        for name, how in values["rows"].items()
        for seed in how["seeds"]
    ]
    order = sorted(range(len(rows)), key=lambda n: (rows[n].seed, n))  # the first seed of all before the second of any
    return [rows[n] for n in order], [tuple(pair) for pair in values.get("compare", [])]


def train(row: Row, more: list[str]) -> None:
    """Runs a row's command, with options for this machine, and keeps its result."""
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    print(f"{time.strftime('%H:%M:%S')} {row.name}: {shlex.join(row.command)}", flush=True)
    subprocess.run([*row.command, *more], cwd=ROOT, check=True)
    keep(row, commit)


def keep(row: Row, commit: str) -> None:
    """Keeps the results of a row's experiment folder, trained at a commit on this machine."""
    experiment = read_experiment(row.exp_dir)
    config = load_config(row.config, [argument for argument in row.arguments if "=" in argument])
    result = {
        "name": row.name,
        "command": shlex.join(row.command),
        "commit": commit,
        "processor": processor(),
        "precision": resolve_autocast(choose_device(config.train.device), config.train.autocast),
        "minutes": round(sum(line["seconds"] for line in experiment.metrics) / 60, 1),
        "epochs": len(experiment.metrics),
        "speech_h": round(sum(line.get("speech_s", 0.0) for line in experiment.metrics) / 3600, 3),
        "rows": experiment.rows(),
        "utterances": {"_".join(key): utterances(row.exp_dir / f"decode_{'_'.join(key)}") for key in experiment.scores},
    }
    # One utterance per line would make a long file.
    write_text(row.result, json.dumps(result, ensure_ascii=False) + "\n")


def utterances(folder: Path) -> list[list[int]]:
    """Reference words and errors of each utterance of a decoding, in the order of their ids."""
    scored = score_trn(read_trn(folder / "ref.trn"), read_trn(folder / "hyp.trn"))
    return [[u.words.reference, u.words.total] for u in scored.utterances]


def processor() -> str:
    """Instruction sets that decide how fast a training is."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def tables(rows: list[Row], pairs: list[tuple[str, str]]) -> str:
    """The finished rows, one per decoding, and the differences, as Markdown."""
    done = {row.name: json.loads(row.result.read_text(encoding="utf-8")) for row in rows if row.result.is_file()}
    head = ("experiment", "split", "search", "WER %", "95 % interval", "S / D / I", "CER %", "parameters", "epochs",
            "train min", "seed", "commit", "processor", "precision")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for result in done.values():
        for cells in result["rows"]:
            more = [result["commit"], result["processor"], result["precision"]]
            lines.append(f"| {' | '.join([*cells, *more])} |")
    if differences := [line for pair in pairs for line in compared(*pair, rows, done)]:
        lines += ["", "| baseline | system | decoding | WER % | points | 95 % interval | p | seeds |", "|" + "---|" * 8]
        lines += differences
    return "\n".join(lines)


def draw(rows: list[Row], path: Path, decoding: str) -> None:
    """WER of a decoding against the speech processed in training and against training time, by system."""
    done = [json.loads(row.result.read_text(encoding="utf-8")) for row in rows if row.result.is_file()]
    trained = {result["name"].rsplit("_s", 1)[0] for result in done}
    systems = [system for system in dict.fromkeys(row.system for row in rows) if system in trained]
    with figure(path, 1, 2) as panels:
        for axes, key, label in zip(panels, ("speech_h", "minutes"), ("hours of speech", "minutes"), strict=True):
            for n, system in enumerate(systems):
                of_one = [result for result in done if result["name"].rsplit("_s", 1)[0] == system and key in result]
                wer = [100 * sum(e for _, e in r["utterances"][decoding]) / sum(w for w, _ in r["utterances"][decoding])
                       for r in of_one]  # fmt: skip
                axes.plot([result[key] for result in of_one], wer, "osD^v<>P"[n % 8], label=system)
            axes.set_xlabel(f"{label} processed in training" if key == "speech_h" else f"{label} of training")
            axes.set_ylabel(f"WER %, {decoding.replace('_', ', ')}")
            axes.set_xlim(left=0)
        panels[0].legend(fontsize="small")


def compared(baseline: str, system: str, rows: list[Row], done: dict[str, Any]) -> list[str]:
    """One line per decoding that both systems have, pooled over the seeds that are done."""
    names = [[row.name for row in rows if row.system == name and row.name in done] for name in (baseline, system)]
    if not all(names):
        return []
    lines = []
    for decoding in done[names[0][0]]["utterances"]:
        counts = [[_errors(done[name]["utterances"][decoding]) for name in of_one] for of_one in names]
        found: Difference = paired_bootstrap(*counts)
        cells = [baseline, system, decoding, f"{found.baseline:.2f}, {found.system:.2f}", f"{found.points:+.2f}"]
        cells += [f"{found.low:+.2f} – {found.high:+.2f}", f"{found.p_value:.3f}"]
        lines.append(f"| {' | '.join(cells)} | {len(names[0])}, {len(names[1])} |")
    return lines


def _errors(counts: list[list[int]]) -> list[Errors]:
    return [Errors(reference, wrong) for reference, wrong in counts]


def main() -> None:
    """Trains the remaining rows of a list, or prints its state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="egs/RECIPE/evidence.yaml")
    parser.add_argument("--list", action="store_true", help="print each row's state and command")
    parser.add_argument("--tables", action="store_true", help="print the finished rows as tables")
    parser.add_argument("--figure", type=Path, help="draw WER against speech and time, and train nothing")
    parser.add_argument("--decoding", default="test_beam", help="split and search for the figure")
    parser.add_argument("--only", action="append", help="a system or a row, such as conformer or conformer_s2")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no row after this many minutes")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    rows, pairs = read_rows(arguments.rows)
    if arguments.list or arguments.tables:
        for row in rows if arguments.list else ():
            print(f"{'done' if row.result.is_file() else 'open'}  {row.name:<24} {shlex.join(row.command)}")
        if arguments.tables:
            print(tables(rows, pairs))
        return
    if arguments.figure:
        draw(rows, arguments.figure, arguments.decoding)
        return
    started = time.monotonic()
    for row in rows:
        wanted = not arguments.only or row.name in arguments.only or row.system in arguments.only
        if wanted and not row.result.is_file():
            if time.monotonic() - started > 60 * arguments.minutes:
                print(f"{row.name} and later rows are left for another run", file=sys.stderr)
                return
            train(row, options)


if __name__ == "__main__":
    main()
