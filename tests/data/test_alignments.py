from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrkit.data.alignments import read_alignments, write_alignments
from asrkit.errors import UserError


def test_times_come_back_by_id(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    write_alignments(path, [("b", torch.tensor([0.5, 1.0])), ("a", torch.tensor([0.25])), ("silence", torch.zeros(0))])
    found = read_alignments(path)
    assert found.starts(["a", "silence", "b"], [1, 0, 2]).tolist() == [[0.25, 0.0], [0.0, 0.0], [0.5, 1.0]]
    with pytest.raises(UserError, match="no alignment of c; run asrkit align"):
        found.starts(["c"], [1])
    with pytest.raises(UserError, match="aligns 2 symbols of b, which has 3"):
        found.starts(["b"], [3])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; run asrkit align first"):
        read_alignments(tmp_path / "dev.safetensors")
    (tmp_path / "dev.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="run asrkit align again"):
        read_alignments(tmp_path / "dev.safetensors")


def test_ids_are_found_among_many(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    write_alignments(path, [(f"u{n}", torch.tensor([float(n)])) for n in range(1000)])
    assert torch.equal(read_alignments(path).starts(["u999", "u0"], [1, 1]), torch.tensor([[999.0], [0.0]]))
