"""Named tensors on disk."""

from __future__ import annotations

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
