"""The start times of an utterance's symbols, which ``asrkit align`` writes and training on frames reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from asrkit.data.index import id_hash
from asrkit.errors import UserError
from asrkit.files import atomic_path
from asrkit.tensor_files import read_tensors


class Alignments:
    """The symbols' start times of many utterances.

    Args:
        id_hashes: (N,) of the utterances, ascending; see :func:`asrkit.data.index.id_hash`.
        offsets: (N + 1,) where each utterance's times begin.
        starts_s: (sum of U,) seconds.
        where: the file, for messages.
    """

    def __init__(self, id_hashes: torch.Tensor, offsets: torch.Tensor, starts_s: torch.Tensor, where: str) -> None:
        self.id_hashes, self.offsets, self.starts_s, self.where = id_hashes, offsets, starts_s, where

    def starts(self, ids: Sequence[str], token_lens: Sequence[int]) -> torch.Tensor:
        """(B, U) seconds of the utterances with these ids, 0 in the padding.

        Raises:
            UserError: an utterance is missing, or has another number of symbols.
        """
        result = torch.zeros(len(ids), max(token_lens, default=0))
        for row, id, labels in zip(result, ids, token_lens, strict=True):
            hash = id_hash(id)
            index = int(torch.searchsorted(self.id_hashes, hash))
            if index == len(self.id_hashes) or int(self.id_hashes[index]) != hash:
                raise UserError(f"{self.where} has no alignment of {id}; run asrkit align on these data")
            begin, end = self.offsets[index : index + 2].tolist()
            if end - begin != labels:
                raise UserError(
                    f"{self.where} aligns {end - begin} symbols of {id}, which has {labels}; run asrkit align again"
                )
            row[:labels] = self.starts_s[begin:end]
        return result


def write_alignments(path: Path, aligned: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Writes each utterance's id and the times (U,) of its symbols, in seconds."""
    rows = sorted(((id_hash(id), starts_s) for id, starts_s in aligned), key=lambda row: row[0])
    tensors = {
        "id_hashes": torch.tensor([number for number, _ in rows], dtype=torch.int64),
        "offsets": torch.from_numpy(np.cumsum([0] + [len(starts_s) for _, starts_s in rows])),
        "starts_s": torch.cat([torch.zeros(0), *(starts_s for _, starts_s in rows)]),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def read_alignments(path: Path) -> Alignments:
    """Reads the file of :func:`write_alignments`.

    Raises:
        UserError: the file is missing, or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; run asrkit align first")
    tensors = read_tensors(path, "remove it and run asrkit align again")
    if set(tensors) != {"id_hashes", "offsets", "starts_s"}:
        raise UserError(f"{path} holds no alignments; remove it and run asrkit align again")
    return Alignments(tensors["id_hashes"], tensors["offsets"], tensors["starts_s"], str(path))
