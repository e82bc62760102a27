"""The recipes' configurations and scripts, for which there need be no corpus."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from asrkit.bundle.build import build_transducer
from asrkit.config_files import load_config
from asrkit.models.transducer import num_parameters
from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "egs").glob("*/run.sh"))


def name_of(path: Path) -> str:
    """A file's name in the test's."""
    return str(path.relative_to(ROOT / "egs"))


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_explains_itself_before_it_does_anything(path: Path) -> None:
    done = subprocess.run([str(path), "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.startswith("Usage:") and not done.stderr
    wrong = subprocess.run([str(path), "--no-such-option"], capture_output=True, text=True, timeout=30)
    assert wrong.returncode == 2 and "--no-such-option" in wrong.stderr


SIZES = {  # of the papers, with 46 symbols
    "swb300/conf/dssformer.yaml": 73e6,
    "swb300/conf/blstm.yaml": 57e6,
    "swb2000/conf/conformer.yaml": 74e6,
}


@pytest.mark.parametrize("name", SIZES)
def test_models_have_the_papers_sizes(name: str) -> None:
    model = build_transducer(load_config(ROOT / "egs" / name, ()), 46)
    assert num_parameters(model) == pytest.approx(SIZES[name], rel=0.02)
