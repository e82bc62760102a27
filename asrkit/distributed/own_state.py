"""What a learner with weights of its own writes next to a checkpoint, which has the mean of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.console import log
from asrkit.distributed.flat import assign
from asrkit.distributed.learners import Learners
from asrkit.records import digest
from asrkit.tensor_files import write_state

LEARNER = ".learner-"
"""In the name of a file that one learner wrote next to a checkpoint."""
DIGEST = ".sha256"


def own_path(folder: Path, stem: str, rank: int) -> Path:
    """A learner's file next to the checkpoint ``stem``."""
    return folder / f"{stem}{LEARNER}{rank}.pt"


def write_own(path: Path, learners: int, weights: torch.Tensor, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Writes a learner's weights (d,), its module's buffers and ``state``, one of so many learners."""
    own = {"learners": learners, "weights": weights, "buffers": [b.clone() for b in module.buffers()], **state}
    write_state(path, own, path.with_suffix(DIGEST))


def load_own_of_all(learners: Learners, path: Path, number: int, module: nn.Module) -> dict[str, Any] | None:
    """Gives a module what :func:`write_own` wrote and returns the state with it; all learners ask together,
    ``number`` with weights of their own.

    Where any has none that can be read, as with another number of learners, None for all, who keep the mean.
    """
    state, reason = _read(path, number)
    if reasons := [why for why in learners.gather(reason) if why]:
        if learners.is_main:
            log(f"no complete learner state ({reasons[0]}); every learner resumes from the mean weights")
        return None
    assign(module, state["weights"])
    for buffer, own in zip(module.buffers(), state["buffers"], strict=True):
        buffer.copy_(own)
    return state


def _read(path: Path, learners: int) -> tuple[dict[str, Any], str]:
    """A learner's file, or why it cannot be used."""
    if not path.is_file():
        return {}, f"there is no {path.name}"
    try:
        if path.with_suffix(DIGEST).read_text(encoding="utf-8").strip() != digest(path):
            return {}, f"{path.name} is not what was written"
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as errors of any kind
        return {}, f"{path.name} cannot be read: {next(iter(str(error).splitlines()), type(error).__name__)}"
    return state, "" if state["learners"] == learners else f"there were {state['learners']} learners"
