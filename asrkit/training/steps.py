"""What every optimizer step begins with, whatever is trained."""

from __future__ import annotations

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


def autocast(device: torch.device, name: str) -> torch.autocast:
    """The context of ``train.autocast``: ``none``, ``bf16`` or ``fp16``."""
    dtype = DTYPES[name]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
