"""What is done is not taken for something else."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from asrkit.cli.common import Made, digest, done_before
from asrkit.errors import UserError


def test_outputs_of_other_settings_are_no_work_done(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    made = Made(tmp_path / "made_of.json", {"speed_factors": [0.9, 1.0], "cuts": {"train": "12"}})
    assert not done_before([output], force=False, made=made)  # nothing is there
    output.write_text("made")
    assert done_before([output], force=False, made=made)  # before records were kept
    made.keep()
    assert done_before([output], force=False, made=made)
    for of, words in (
        ({"speed_factors": [1.0], "cuts": {"train": "12"}}, "with speed_factors=[0.9, 1.0], now it is [1.0]"),
        ({"speed_factors": [0.9, 1.0], "cuts": {"train": "13"}}, "with cuts.train=12, now it is 13"),
    ):
        with pytest.raises(UserError) as error:
            done_before([output], force=False, made=Made(made.record, of))
        assert words in str(error.value) and "--force" in str(error.value)
    lost = {"speed_factors": [0.9, 1.0], "cuts": {"train": None}}
    assert done_before([output], force=False, made=Made(made.record, lost))
    newer = {"speed_factors": [0.9, 1.0], "a setting of a later version": 1}
    assert done_before([output], force=False, made=Made(made.record, newer))
    assert not done_before([output], force=True, made=made)
    assert not done_before([output], force=False, made=made)  # cut off while it replaced its outputs
    made.keep()
    assert done_before([output], force=False, made=made)


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
