"""What is done is not taken for something else."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asrkit.errors import UserError
from asrkit.records import INPUTS, Record, digest, is_done


def test_outputs_of_other_inputs_are_no_work_done(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    inputs = {"speed_factors": [0.9, 1.0], "cuts": {"train": "12"}}
    record = Record(tmp_path / INPUTS, inputs)
    assert not is_done([output], record, force=False)  # nothing is there
    output.write_text("made")
    assert not is_done([output], record, force=False)  # its inputs are not recorded
    record.keep()
    assert is_done([output], record, force=False)
    for other, words in (
        (inputs | {"speed_factors": [1.0]}, "of speed_factors=[0.9, 1.0], now it is [1.0]"),
        (inputs | {"cuts": {"train": "13"}}, "of cuts.train=12, now it is 13"),
    ):
        with pytest.raises(UserError) as error:
            is_done([output], Record(record.path, other), force=False)
        assert words in str(error.value) and "--force" in str(error.value)
    assert is_done([output], Record(record.path, inputs | {"cuts": {"train": None}}), force=False)  # lost since
    assert is_done([output], Record(record.path, inputs | {"a setting of a later version": 1}), force=False)
    later = Record(record.path, inputs | {"a later setting": 1}, defaults={"a later setting": 0})
    assert later.difference() == "a later setting=0, now it is 1"
    assert not is_done([output], record, force=True)
    assert is_done([output], record, force=False)


def test_a_complete_record_misses_what_is_new_or_gone(tmp_path: Path) -> None:
    record = Record(tmp_path / INPUTS, {"systems": {"a": 1, "b": 2}}, complete=True)
    record.keep()
    assert record.difference() is None
    for systems, words in (
        ({"a": 1}, "systems.b=2, now it is (unset)"),
        ({"a": 1, "b": 2, "c": 3}, "systems.c=(unset), now"),
    ):
        found = Record(record.path, {"systems": systems}, complete=True).difference()
        assert found is not None and found.startswith(words)


def test_outputs_that_were_begun_are_not_done(tmp_path: Path) -> None:
    output, record = tmp_path / "out.txt", Record(tmp_path / INPUTS, {"a": 1})
    record.begin()
    output.write_text("half of them")
    assert record.is_unfinished() and not is_done([output], record, force=False)
    record.keep()
    assert is_done([output], record, force=False)


def test_records_of_the_first_version_count(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    output.write_text("made")
    (tmp_path / "made_of.json").write_text('{"a": 1}')
    assert is_done([output], Record(tmp_path / INPUTS, {"a": 1}), force=False)
    with pytest.raises(UserError, match="a=1, now it is 2"):
        is_done([output], Record(tmp_path / INPUTS, {"a": 2}), force=False)
    (tmp_path / INPUTS).write_text("no JSON")
    with pytest.raises(UserError, match=r"inputs\.json cannot be read"):
        is_done([output], Record(tmp_path / INPUTS, {"a": 1}), force=False)


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    packed = []
    for name, text, time in (("a", b"text", 1), ("b", b"text", 2), ("c", b"other", 1)):
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(gzip.compress(text, mtime=time))
        packed.append(digest(path))
    assert packed[0] == packed[1] != packed[2] and digest(tmp_path / "none") is None
    (tmp_path / "plain").write_bytes(b"text")
    assert digest(tmp_path / "plain") == packed[0]
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    assert digest(tmp_path / "a.jsonl.gz") is None


def test_a_fifo_is_not_read(tmp_path: Path) -> None:
    """In a process of its own, which a fault would keep waiting."""
    os.mkfifo(tmp_path / "fifo")
    code = "import sys; from pathlib import Path; from asrkit.records import digest; print(digest(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "fifo")]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "None\n"
