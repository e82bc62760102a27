"""What every optimizer step begins with, whatever is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from asrkit.features.pipeline import seeded_generator

DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def begin_step(optimizer: torch.optim.Optimizer, lr: float, *where: int) -> None:
    """Sets the learning rate, and makes dropout a function of where training is: a resumed run repeats it.

    Args:
        optimizer: all its groups get the rate.
        lr: for this step.
        where: seed, epoch, step and, of several processes, the rank.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    torch.manual_seed(seeded_generator("dropout", *where).initial_seed())


def resolve_autocast(device: torch.device, name: str) -> str:
    """``train.autocast`` where ``auto`` is ``bf16`` if the device multiplies in it and ``none`` if not."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "none"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "none"


@contextmanager
def autocast(device: torch.device, name: str) -> Iterator[None]:
    """The context of a resolved ``train.autocast``: ``none``, ``bf16`` or ``fp16``."""
    dtype = DTYPES[name]
    # Where oneDNN has no bf16, torch keeps everything from it but LSTMs, which then fail.
    without_kernel = (
        device.type == "cpu" and dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    own = torch.backends.mkldnn.flags(enabled=False) if without_kernel else nullcontext()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None), own:
        yield
