"""Time of ``asrkit prepare`` on many short files against reading them with soundfile in as many processes.

Usage: .venv/bin/python tools/bench/prepare.py [--files 3000] [--num-jobs 2] [--repeats 3] [--json]

The files are one second of noise each, FLAC; the two take turns in one run. ``prepare`` is all of checking and
writing cuts, without starting Python.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from measure import alternate

from asrkit.corpora.prepare import Options, origin, prepare_corpus, read_corpus
from asrkit.data.folder import DataFolder


def read(path: Path) -> int:
    """Samples of a file."""
    return len(soundfile.read(path, dtype="float32", always_2d=True)[0])


def read_all(paths: list[Path], num_jobs: int) -> None:
    """Reads all files in processes."""
    with ProcessPoolExecutor(num_jobs) as pool:
        sum(pool.map(read, paths, chunksize=16))


def prepare(corpus: Path, data_dir: Path, num_jobs: int) -> None:
    """What the command does."""
    folder = DataFolder(data_dir)
    found = read_corpus("folder", corpus, folder, Options())
    origin(found, corpus)
    prepare_corpus(found, corpus, folder, skip_bad=False, num_jobs=num_jobs)


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("files", 3000), ("num-jobs", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        corpus, text, speakers = Path(name, "corpus"), [], []
        corpus.mkdir()
        for n in range(arguments.files):
            soundfile.write(corpus / f"u{n}.flac", rng.normal(0, 0.1, 16000), 16000)
            text.append(f"u{n} WORD {n}")
            speakers.append(f"u{n} s{n % 40}")
        (corpus / "text").write_text("\n".join(text))
        (corpus / "utt2spk").write_text("\n".join(speakers))
        paths = sorted(corpus.glob("*.flac"))
        seconds = alternate(
            {
                "prepare": lambda: prepare(corpus, Path(name, "data"), arguments.num_jobs),
                "soundfile": lambda: read_all(paths, arguments.num_jobs),
            },
            arguments.repeats,
        )
    ratio = seconds["prepare"] / seconds["soundfile"]
    print(f"{arguments.files} files, {arguments.num_jobs} processes: prepare {seconds['prepare']:.2f} s, "
          f"soundfile {seconds['soundfile']:.2f} s, ratio {ratio:.2f}")  # fmt: skip
    if arguments.json:
        print(json.dumps({"files": arguments.files, **seconds, "ratio": ratio}))


if __name__ == "__main__":
    main()
