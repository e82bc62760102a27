"""The ``asrkit`` command."""

from __future__ import annotations

import os
import sys

import click

from asrkit import __version__
from asrkit.cli.data import check, combine, features, prepare, tokenizer
from asrkit.cli.decode import decode, nbest, rescore, score
from asrkit.cli.doctor import doctor
from asrkit.cli.export import export, transcribe
from asrkit.cli.language_model import train_lm
from asrkit.cli.report import report
from asrkit.cli.retrieve import pcas, retrieve
from asrkit.cli.study import study
from asrkit.cli.train import train
from asrkit.errors import UserError
from asrkit.training.cpu import keep_kernels, restart_with_allocator

cli = click.Group(
    help="Speech recognition with transducers: one subcommand a stage.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__)(cli)
for command in (
    doctor, prepare, check, combine, features, tokenizer, train, train_lm, decode, nbest, rescore, score,
    export, transcribe, report, study, pcas, retrieve,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Runs the command; what the user can mend is one line and exit code 2."""
    if sys.argv[1:2] in (["train"], ["train-lm"], ["decode"], ["nbest"]):
        restart_with_allocator(["-m", "asrkit", *sys.argv[1:]])
        keep_kernels()
    code = 0
    try:
        cli()
    except UserError as error:
        print(f"asrkit: {error}", file=sys.stderr)
        code = 2
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    if "RANK" in os.environ:
        os._exit(code)  # threads of a process group that ended early would abort the interpreter's own exit
    sys.exit(code)
