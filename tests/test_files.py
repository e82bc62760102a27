"""Files and folders that several processes, or a killed one, would spoil."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asrkit.errors import UserError
from asrkit.files import atomic_path, companion, exclusive, utf8_text, write_text

HOLD = "import sys, time; from pathlib import Path; from asrkit.files import exclusive\n"
HOLD += "with exclusive(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)"
DIE = "import os, sys; from pathlib import Path; from asrkit.files import atomic_path\n"
DIE += "with atomic_path(Path(sys.argv[1])) as t:\n    t.write_text('half')\n    os.kill(os.getpid(), 9)"


def test_a_folder_is_worked_in_by_one_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(UserError, match=f"process {other.pid} is working in"), exclusive(tmp_path):
            pass
        other.kill()
    with exclusive(tmp_path):  # the system has freed it
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot work in the folder"), exclusive(tmp_path / "file" / "x"):
        pass


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for target in (tmp_path / "a.json", tmp_path / "checkpoints" / "b.state.pt"):
        subprocess.run([sys.executable, "-c", DIE, str(target)], check=False)
        assert len(list(target.parent.glob(".tmp-*"))) == 1 and not target.exists()
    with exclusive(tmp_path), atomic_path(tmp_path / "mine.json") as mine:
        mine.write_text("{}")
        assert list(tmp_path.rglob(".tmp-*")) == [mine]


def test_names_of_the_greatest_length(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    write_text(path, "{}")
    assert path.read_text() == "{}"
    beside = companion(path, ".inputs.json")
    write_text(beside, "{}")
    assert beside.name.endswith(".inputs.json") and companion(tmp_path / "a.json", ".b") == tmp_path / "a.json.b"
    assert companion(tmp_path / ("y" * 250 + ".json"), ".inputs.json") != beside


def test_files_have_the_usual_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").touch()
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "b").st_mode


def test_text_in_other_encodings_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("é".encode("utf-16"))
    with pytest.raises(UserError, match=r"is UTF-16 text.*save it as UTF-8"):
        utf8_text(tmp_path / "a")
    (tmp_path / "a").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        utf8_text(tmp_path / "a")
    with pytest.raises(UserError, match="cannot read"):
        utf8_text(tmp_path / "none")
