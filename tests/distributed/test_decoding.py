"""Decoding by several processes gives what one gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Workshop, run_cli


@pytest.mark.parametrize("starter", ["--processes", "torchrun"])
def test_several_processes_decode_what_one_does(workshop: Workshop, starter: str) -> None:
    if not (workshop.folder / "to_decode").exists():
        workshop.finish("to_decode", "train.num_epochs=1")
    exp = workshop.folder / "to_decode"
    words: list[str | Path] = [
        "decode",
        "--model",
        exp / "averaged.safetensors",
        "--data-dir",
        workshop.data_dir,
        "--split",
        "dev",
    ]
    one = run_cli(*words, "--out-dir", exp / "one", "decode.method=beam", "decode.beam=2")
    assert one.returncode == 0, one.stderr
    out = exp / starter.strip("-")
    given = [*words, "--out-dir", out, "decode.method=beam", "decode.beam=2"]
    if starter == "torchrun":
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "asrkit"]
    else:
        launcher = ["-m", "asrkit"]
        given += ["--processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    several = subprocess.run(
        [sys.executable, *launcher, *map(str, given)], env=environment, capture_output=True, text=True
    )
    assert several.returncode == 0, several.stderr[-2000:]
    for name in ("hyp.trn", "ref.trn"):
        assert (out / name).read_text() == (exp / "one" / name).read_text()


def test_tuning_is_for_one_process(workshop: Workshop) -> None:
    words: list[str | Path] = [
        "decode",
        "--model",
        "m",
        "--data-dir",
        workshop.data_dir,
        "--split",
        "dev",
        "--tune-fusion",
    ]
    done = run_cli(*words, "--out-dir", workshop.folder / "no", "--processes", "2")
    assert done.returncode == 2 and "--tune-fusion works in one process" in done.stderr
