"""Named tensors on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from asrkit.errors import UserError


def read_tensors(path: Path, remedy: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.
        remedy: what the user can do about one that cannot be read.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); {remedy}") from error


def sort_header(path: Path) -> None:
    """Rewrites a safetensors file with a header in sorted order, so that equal content is equal bytes."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        if len(text) == length:
            with open(path, "r+b") as target:
                target.seek(8)
                target.write(text)
            return
        rest = file.read()
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
