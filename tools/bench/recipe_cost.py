"""How much speech the large recipes train on, and how long this machine would take for it, from a few updates of each
model. The features are random, in utterances of the corpus's usual length.

Usage: .venv/bin/python tools/bench/recipe_cost.py [--json] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import alternate
from training import Speech, training_step

from asrkit.config_files import load_config
from asrkit.cpu import restart_with_allocator
from asrkit.devices import resolve_autocast

RECIPES = Path(__file__).resolve().parents[2] / "egs"
BATCH_S, REPEATS = 40.0, 3


@dataclass(frozen=True)
class Corpus:
    """A training set."""

    hours: float
    speech: Speech


CHARACTERS = Speech(4.0, 56, 46)
CORPORA = {
    "swb300": Corpus(300, CHARACTERS),
    "swb2000": Corpus(1975, CHARACTERS),
    "malach": Corpus(176, Speech(8.0, 112, 46)),
    "librispeech": Corpus(100, Speech(12.7, 45, 1000)),
    "tedlium2": Corpus(207, Speech(8.0, 30, 1000)),
    "csj": Corpus(515, Speech(4.6, 30, 3000)),
}
CONFIGURATIONS = (
    "swb300/conformer",
    "swb300/dssformer",
    "swb300/blstm",
    "swb2000/conformer",
    "swb2000/dssformer",
    "malach/conformer",
    "malach/dssformer",
    "librispeech/conformer_100",
    "tedlium2/conformer",
    "csj/conformer",
    "csj/blstm",
)


def path_of(name: str) -> Path:
    """The file of a configuration."""
    return RECIPES / f"{name.replace('/', '/conf/')}.yaml"


def corpus_of(name: str) -> Corpus:
    """What a configuration trains on."""
    return CORPORA[name.split("/")[0]]


def hours_of_speech(name: str) -> float:
    """In all epochs of a configuration, with its replicas at other speeds and tempos."""
    config = load_config(path_of(name), [])
    replicas = len(config.features.speed_factors) + len(config.features.tempo_factors)
    return corpus_of(name).hours * replicas * config.train.num_epochs


def cost(name: str) -> dict[str, str | float]:
    """The row of a configuration."""
    autocast = resolve_autocast(torch.device("cpu"), "auto")
    step, parameters = training_step(BATCH_S, autocast, (), path=path_of(name), speech=corpus_of(name).speech)
    speed = step() / alternate({name: step}, REPEATS, warm_up=0)[name]
    hours = hours_of_speech(name)
    return {
        "configuration": name,
        "parameters": parameters,
        "hours_of_speech": hours,
        "speech_s_per_s": speed,
        "days": hours / 24 / speed,
    }


def main() -> None:
    """Prints a line for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all if none: {', '.join(CONFIGURATIONS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON array as the last line")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(CONFIGURATIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; one of {', '.join(CONFIGURATIONS)}")
    restart_with_allocator(sys.argv)  # as asrkit train does
    rows = []
    for name in arguments.names or CONFIGURATIONS:
        rows.append(row := cost(name))
        print(" ".join(f"{key} {value:,.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
