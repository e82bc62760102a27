from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from asrkit.cli.main import cli
from tests.conftest import run_cli

COMMANDS = [
    "doctor",
    "prepare",
    "check",
    "combine",
    "compare",
    "features",
    "tokenizer",
    "train",
    "train-lm",
    "decode",
    "nbest",
    "rescore",
    "score",
    "pseudo-label",
    "align",
    "utterance-scores",
    "quantize",
    "export",
    "transcribe",
    "report",
    "study",
    "pcas",
    "retrieve",
]


def test_every_command_explains_itself() -> None:
    context = click.Context(cli)
    assert cli.list_commands(context) == sorted(COMMANDS)
    for command in COMMANDS:
        result = CliRunner().invoke(cli, [command, "--help"])
        assert result.exit_code == 0 and "Usage:" in result.output
        found = cli.get_command(context, command)
        assert found is not None and found.name == command and found.help


def test_an_unknown_command_is_named() -> None:
    result = CliRunner().invoke(cli, ["trian"])
    assert result.exit_code == 2 and "trian" in result.output


@pytest.mark.parametrize("command", ["", "score"])
def test_torch_is_not_imported_in_vain(command: str) -> None:
    code = (
        "import sys; from asrkit.cli.main import cli; cli.get_command(None, sys.argv[1]); print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_doctor_says_what_is_there() -> None:
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0
    for words in ("torch", "CUDA devices", "k2", "instruction sets", "sclite"):
        assert words in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "train.num_epoch=3"], "did you mean 'train.num_epochs'"),
        (["train", "train.num_epochs=x"], "train.num_epochs"),
        (["train"], "run asrkit tokenizer first"),
        (["tokenizer"], "run asrkit prepare or combine first"),
        (["decode", "--model", "none", "--out-dir", "out"], "no model file at none"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(args: list[str], message: str, tmp_path: Path) -> None:
    if args[0] == "train":
        args = [*args, "--exp-dir", str(tmp_path / "exp")]
    result = run_cli(*args, "--data-dir", tmp_path / "data")
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
