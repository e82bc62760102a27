"""The ``asrkit`` command."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import cast

import click

from asrkit import __version__
from asrkit.errors import UserError
from asrkit.training.cpu import keep_kernels, restart_with_allocator

MODULES = {
    "doctor": "doctor", "prepare": "data", "check": "data", "combine": "data", "features": "data",
    "tokenizer": "data", "train": "train", "train-lm": "language_model", "decode": "decode", "nbest": "decode",
    "rescore": "decode", "score": "score", "export": "export", "transcribe": "export", "report": "report",
    "study": "study", "pcas": "retrieve", "retrieve": "retrieve",
}  # fmt: skip
"""Where each subcommand is."""


class _Commands(click.Group):
    """Imports a subcommand when it is asked for: one that restarts does so before torch is there, score needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        module = import_module(f"asrkit.cli.{MODULES[cmd_name]}")
        return cast(click.Command, getattr(module, cmd_name.replace("-", "_")))


cli = _Commands(
    help="Speech recognition with transducers: one subcommand a stage.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__)(cli)


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
