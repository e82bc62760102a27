"""Writes docs/settings.md from the settings' declarations.

Usage: .venv/bin/python tools/settings_page.py [--check]    (--check: exit code 1 where the page is not up to date)
"""

from __future__ import annotations

import sys
from pathlib import Path

from asrkit.config import Config
from asrkit.config_quantization import LayerPolicyConfig
from asrkit.settings import settings_page

PATH = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
INTRODUCTION = """\
Every setting of an experiment with its default. Give it in the experiment's YAML or on the command line as
`key=value`, such as `train.num_epochs=40`. A setting that the chosen parts do not read is an error: "only with" says
what has to be chosen. This page is generated from `asrkit/config.py` by `tools/settings_page.py`."""


def main() -> None:
    """Writes the page, or compares it."""
    config = Config()
    config.quantization.layers["NAME"] = LayerPolicyConfig()  # what is under a name of the user's choice
    page = settings_page(config, "Settings", INTRODUCTION)
    if sys.argv[1:] == ["--check"]:
        sys.exit(PATH.read_text(encoding="utf-8") != page)
    PATH.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
