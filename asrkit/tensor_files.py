"""Named tensors on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from asrkit.errors import UserError
from asrkit.files import atomic_path, write_text
from asrkit.records import digest


def read_tensors(path: Path, remedy: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.
        remedy: advice for the user if it is unreadable.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); {remedy}") from error


def write_state(path: Path, state: dict[str, Any], digest_path: Path) -> None:
    """Writes a training's state atomically, and next to it the digest that verifies it.

    Raises:
        UserError: the file system refused.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's zip writer raises it for a full disk
            raise OSError(str(error).splitlines()[0]) from error
        write_text(digest_path, f"{digest(temporary)}\n")


def sort_header(path: Path) -> None:
    """Rewrites a safetensors file with a sorted header, so that equal content gives equal bytes."""
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
