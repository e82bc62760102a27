"""The ``asrkit`` command."""

from __future__ import annotations

import sys

import click

from asrkit import __version__
from asrkit.cli.data import check, features, prepare, tokenizer
from asrkit.cli.train import train
from asrkit.errors import UserError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Speech recognition with transducers: one subcommand a stage."""


for command in (prepare, check, features, tokenizer, train):
    cli.add_command(command)


def main() -> None:
    """Runs the command; what the user can mend is one line and exit code 2."""
    try:
        cli()
    except UserError as error:
        print(f"asrkit: {error}", file=sys.stderr)
        sys.exit(2)
