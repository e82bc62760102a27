"""The ``asrkit`` command."""

from __future__ import annotations

import ast
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import cast

import click

from asrkit import __version__
from asrkit.cpu import keep_kernels, restart_with_allocator
from asrkit.errors import UserError, shown

MODULES = {
    "doctor": "doctor",
    "prepare": "data",
    "check": "data",
    "combine": "data",
    "compare": "compare",
    "features": "data",
    "tokenizer": "data",
    "align": "align",
    "train": "train",
    "train-lm": "train_lm",
    "decode": "decode",
    "nbest": "decode",
    "rescore": "decode",
    "pseudo-label": "pseudo_label",
    "utterance-scores": "utterance_scores",
    "score": "score",
    "quantize": "quantize",
    "export": "export",
    "transcribe": "export",
    "report": "report",
    "study": "study",
    "pcas": "retrieve",
    "retrieve": "retrieve",
}
"""Module of each subcommand."""


class _Commands(click.Group):
    """Imports a subcommand on demand: some restart Python before importing torch, others do not need it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(MODULES)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(name)) for name in self.list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        module = import_module(f"asrkit.cli.{MODULES[cmd_name]}")
        return cast(click.Command, getattr(module, cmd_name.replace("-", "_")))


def _first_sentence(command: str) -> str:
    """The first line of a subcommand's docstring, read from its source."""
    source = Path(__file__).with_name(f"{MODULES[command]}.py").read_text(encoding="utf-8")
    function = command.replace("-", "_")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").split("\n")[0].rstrip(".")
    raise ValueError(f"{MODULES[command]}.py has no function {function}")


cli = _Commands(
    help="Speech recognition with transducers: one subcommand per stage.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__)(cli)


def _discard_output() -> None:
    """Keeps the interpreter from writing the remaining output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _cause(error: OSError) -> str:
    return f" ({shown(str(error.__cause__))})" if error.__cause__ else ""


def main() -> None:
    """Runs the command; errors users can fix print one line, with exit code 2."""
    if sys.argv[1:2] in (["train"], ["train-lm"], ["decode"], ["nbest"], ["pseudo-label"], ["align"]):
        restart_with_allocator(["-m", "asrkit", *sys.argv[1:]])
        keep_kernels()
    code = 0
    try:
        cli()
    except UserError as error:
        print(f"asrkit: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the reader closed the output
        _discard_output()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except OSError as error:
        if error.errno is None:  # of a library that cannot be loaded
            print(f"asrkit: {shown(str(error))}{_cause(error)}", file=sys.stderr)
        else:
            place = f" {shown(str(error.filename))}" if error.filename else " standard output"
            print(f"asrkit: cannot write or read{place}: {error.strerror}", file=sys.stderr)
        _discard_output()
        code = 2
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        print(f"asrkit: cannot write standard output: {error.strerror}", file=sys.stderr)
        _discard_output()
        code = 2
    sys.stderr.flush()
    if "RANK" in os.environ:
        os._exit(code)  # threads of a process group that ended early would abort a normal exit
    sys.exit(code)
