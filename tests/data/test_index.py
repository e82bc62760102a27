from __future__ import annotations

import gzip
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from asrkit.data.cut_files import CUTS_IN_BLOCK, Roots, load_roots, read_cuts, write_cuts
from asrkit.data.folder import DataFolder
from asrkit.data.index import digest_of_cuts, durations_of, open_index
from asrkit.data.transcripts import encode_transcript, frames_needed
from asrkit.errors import UserError
from asrkit.text.tokenizer import train_tokenizer
from tests.conftest import Workshop


@pytest.fixture
def folder(workshop: Workshop, tmp_path: Path) -> DataFolder:
    shutil.copytree(workshop.data_dir, tmp_path / "data")
    return DataFolder(tmp_path / "data")


def test_the_index_says_what_the_cuts_do_and_gives_each_of_them(folder: DataFolder) -> None:
    tokenizer, cuts = folder.load_tokenizer(), list(folder.read_features("train"))
    assert len(cuts) > CUTS_IN_BLOCK
    for num_jobs in (1, 2):
        shutil.rmtree(folder.index("train"), ignore_errors=True)
        index = open_index(folder, "train", tokenizer, num_jobs)
        assert index.durations_s.tolist() == [cut.duration for cut in cuts]
        labels = [encode_transcript(tokenizer, cut) for cut in cuts]
        assert index.num_tokens.tolist() == [len(tokens) for tokens in labels]
        assert index.frames_needed.tolist() == [frames_needed(tokens) for tokens in labels]
        assert list(index) == cuts and index[5] == cuts[5]
    some = index.select(np.array([3, 20, 1]))[1:]
    assert list(some) == [cuts[20], cuts[1]] and durations_of(some).tolist() == [cuts[20].duration, cuts[1].duration]
    assert index.find([cuts[4].id, "unknown", cuts[0].id]).tolist() == [4, -1, 0]
    assert list(pickle.loads(pickle.dumps(some))) == list(some)
    assert isinstance(index.durations_s, np.memmap)


def test_the_index_is_made_once_and_again_when_cuts_or_symbols_change(folder: DataFolder) -> None:
    tokenizer = folder.load_tokenizer()
    open_index(folder, "train", tokenizer)
    made = (folder.index("train") / "num_tokens.npy").stat().st_mtime_ns
    open_index(folder, "train", tokenizer)
    assert (folder.index("train") / "num_tokens.npy").stat().st_mtime_ns == made
    other = train_tokenizer([" ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")], "char", 0)
    assert open_index(folder, "train", other).num_tokens.sum() > 0
    assert (folder.index("train") / "num_tokens.npy").stat().st_mtime_ns > made
    before = digest_of_cuts(folder, "train")
    write_cuts(folder.features("train"), list(folder.read_features("train"))[1:], load_roots(folder.path))
    assert digest_of_cuts(folder, "train") != before
    assert len(open_index(folder, "train", tokenizer)) == 23


def test_a_digest_is_the_same_with_an_index_and_without(folder: DataFolder) -> None:
    shutil.rmtree(folder.index("train"), ignore_errors=True)
    without = digest_of_cuts(folder, "train")
    open_index(folder, "train", folder.load_tokenizer())
    assert digest_of_cuts(folder, "train") == without is not None


def test_a_file_of_another_program_is_written_in_blocks_first(folder: DataFolder) -> None:
    path = folder.features("train")
    cuts, text = list(folder.read_features("train")), gzip.decompress(path.read_bytes())
    digest = digest_of_cuts(folder, "train")
    seventeen = b"\n".join(text.splitlines()[:17])
    path.write_bytes(gzip.compress(seventeen))
    assert list(open_index(folder, "train", folder.load_tokenizer())) == cuts[:17]
    for foreign in (text, text.replace(b"\n", b"\n\n"), text.rstrip()):
        path.write_bytes(gzip.compress(foreign))
        assert list(open_index(folder, "train", folder.load_tokenizer())) == cuts
        assert list(folder.read_features("train")) == cuts and digest_of_cuts(folder, "train") == digest


def test_what_is_wrong_with_a_cut_is_named_by_its_line(folder: DataFolder) -> None:
    path, tokenizer = folder.features("train"), folder.load_tokenizer()
    cuts = list(folder.read_features("train"))
    lines = gzip.decompress(path.read_bytes()).splitlines()

    def write(number: int, **changed: object) -> None:
        values = json.loads(lines[number]) | changed
        new = [*lines[:number], json.dumps(values).encode(), *lines[number + 1 :]]
        path.write_bytes(gzip.compress(b"\n".join(new)))

    for number, changed, reason in (
        (20, {"duration": -1.0}, "lasts"),
        (20, {"type": "Command"}, "type Command"),
        (20, {"id": cuts[2].id}, "is there twice"),
    ):
        write(number, **changed)
        with pytest.raises(UserError, match=rf"train.jsonl.gz:21: this is not a usable cut.*{reason}"):
            open_index(folder, "train", tokenizer)
    write_cuts(path, [*cuts[:3], cuts[3].drop_supervisions()], load_roots(folder.path))
    with pytest.raises(UserError, match=f"{cuts[3].id} has an empty transcript"):
        open_index(folder, "train", tokenizer)
    assert len(open_index(folder, "train")) == 4  # without labels
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        open_index(folder, "train")
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        open_index(folder, "train")


def test_blocks_are_one_gzip_file_to_any_reader(an4_cuts: CutSet, tmp_path: Path) -> None:
    cuts = list(an4_cuts)[:50]
    write_cuts(tmp_path / "a.jsonl.gz", cuts, Roots(tmp_path))
    write_cuts(tmp_path / "b.jsonl.gz", iter(cuts), Roots(tmp_path))
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert list(CutSet.from_file(tmp_path / "a.jsonl.gz")) == cuts
    assert [replace(cut) for cut in read_cuts(tmp_path / "a.jsonl.gz")] == cuts


def test_an_index_that_is_current_needs_no_permission_to_write(folder: DataFolder) -> None:
    tokenizer = folder.load_tokenizer()
    open_index(folder, "train", tokenizer)
    lock = folder.index("train") / ".lock"
    lock.unlink()
    lock.mkdir()  # as good as no permission, for root too
    assert len(open_index(folder, "train", tokenizer)) == 24
    (folder.index("train") / "inputs.json").unlink()
    with pytest.raises(UserError, match="cannot work in the folder"):
        open_index(folder, "train", tokenizer)
