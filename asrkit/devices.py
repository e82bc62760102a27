"""Devices and the precision of their products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from asrkit.errors import UserError

DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str) -> torch.device:
    """``auto`` is CUDA if available.

    Raises:
        UserError: CUDA is requested but not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device=cuda, but torch finds no CUDA device here; asrkit doctor tells what it sees")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def resolve_autocast(device: torch.device, name: str) -> str:
    """Resolves ``auto`` in ``train.autocast``: ``bf16`` if the device supports it, else ``none``."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "none"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "none"


@contextmanager
def autocast(device: torch.device, name: str) -> Iterator[None]:
    """The context of a resolved ``train.autocast``: ``none``, ``bf16`` or ``fp16``."""
    dtype = DTYPES[name]
    # Without bf16 in oneDNN, torch uses it only for LSTMs, which then fail.
    without_kernel = (
        device.type == "cpu" and dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    backend = torch.backends.mkldnn.flags(enabled=False) if without_kernel else nullcontext()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None), backend:
        yield
