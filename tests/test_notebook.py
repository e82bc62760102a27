"""The notebook of the documentation, cell by cell, with fewer epochs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "first_model.ipynb"


def as_script(notebook: Path) -> str:
    """The code cells; a line ``!command {name}`` runs a command, as Jupyter does."""
    lines = ["import subprocess", "import matplotlib", "matplotlib.use('Agg')"]
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        for line in "".join(cell["source"]).splitlines():
            command = re.match(r"!(.*)", line)
            lines.append(f"subprocess.run(f{command[1]!r}, shell=True, check=True)" if command else line)
    return "\n".join(lines)


def test_every_cell_runs(tmp_path: Path) -> None:
    (tmp_path / "notebook.py").write_text(as_script(NOTEBOOK))
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {"FIRST_MODEL": str(tmp_path / "model"), "EPOCHS": "2", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(tmp_path / "notebook.py")]
    done = subprocess.run(command, cwd=ROOT / "docs", env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert re.search(r"^WER \d+\.\d % \[\d+\.\d, \d+\.\d\], CER \d+\.\d %$", done.stdout, re.MULTILINE)
    assert done.stdout.count(" -> ") == 5 and (tmp_path / "model" / "model.safetensors").is_file()


def test_outputs_are_those_of_a_run() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    printed = ["".join(output.get("text", [])) for cell in cells for output in cell.get("outputs", [])]
    assert any(text.startswith("WER ") for text in printed) and any(" -> " in text for text in printed)
    assert not [text for text in printed if "Traceback" in text or str(ROOT) in text]
