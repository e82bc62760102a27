"""Time of ``asrkit prepare`` on many short files against reading them with soundfile in as many processes.

Usage: .venv/bin/python tools/bench/prepare.py [--files 3000] [--num-jobs 2] [--repeats 3] [--json]

The files are utterances of AN4, three seconds long on average, in three formats; the two take turns in one run.
``prepare`` is all of checking and writing cuts, without starting Python.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import soundfile
from measure import alternate

from asrkit.corpora.prepare import Options, origin, prepare_corpus, read_corpus
from asrkit.data.folder import DataFolder

AN4 = Path(__file__).resolve().parents[2] / "egs" / "an4" / "corpus"


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


def write_corpus(folder: Path, files: int, suffix: str) -> list[Path]:
    """Utterances of AN4 at several volumes, so that no two files are equal."""
    folder.mkdir()
    sources = sorted(AN4.rglob("*.ogg"))
    text, speakers = [], []
    for n in range(files):
        samples, rate = soundfile.read(sources[n % len(sources)], dtype="float32")
        soundfile.write(folder / f"u{n}.{suffix}", samples * 0.8 ** (n // len(sources)), rate)
        text.append(f"u{n} WORD {n}")
        speakers.append(f"u{n} s{n % 40}")
    (folder / "text").write_text("\n".join(text))
    (folder / "utt2spk").write_text("\n".join(speakers))
    return sorted(folder.glob(f"*.{suffix}"))


def main() -> None:
    """Prints both times and their ratio for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("files", 3000), ("num-jobs", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    arguments = parser.parse_args()
    result = {"files": arguments.files}
    for suffix in ("flac", "ogg", "wav"):
        with tempfile.TemporaryDirectory() as name:
            corpus = Path(name, "corpus")
            paths = write_corpus(corpus, arguments.files, suffix)
            functions = {
                "prepare": partial(prepare, corpus, Path(name, "data"), arguments.num_jobs),
                "soundfile": partial(read_all, paths, arguments.num_jobs),
            }
            seconds = alternate(functions, arguments.repeats)
        ratio = seconds["prepare"] / seconds["soundfile"]
        print(f"{arguments.files} {suffix} files, {arguments.num_jobs} processes: prepare {seconds['prepare']:.2f} s, "
              f"soundfile {seconds['soundfile']:.2f} s, ratio {ratio:.2f}")  # fmt: skip
        result[suffix] = seconds | {"ratio": ratio}
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
