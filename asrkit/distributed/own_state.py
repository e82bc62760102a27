"""The state that a learner with its own weights writes next to a checkpoint, which holds the mean of all."""

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
"""In the name of a learner's file next to a checkpoint."""
DIGEST = ".sha256"


def own_path(folder: Path, stem: str, rank: int) -> Path:
    """A learner's file next to the checkpoint ``stem``."""
    return folder / f"{stem}{LEARNER}{rank}.pt"


def write_own(path: Path, learners: int, weights: torch.Tensor, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Writes a learner's weights (d,), its module's buffers and ``state``, and the number of learners."""
    own = {"learners": learners, "weights": weights, "buffers": [b.clone() for b in module.buffers()], **state}
    write_state(path, own, path.with_suffix(DIGEST))


def load_own_of_all(learners: Learners, path: Path, number: int, module: nn.Module) -> dict[str, Any] | None:
    """Loads what :func:`write_own` wrote into a module and returns the state; all learners call this together,
    ``number`` with their own weights.

    If any learner's cannot be read, as with another number of learners, all get None and keep the mean.
    """
    state, own_reason = _read(path, number)
    if reasons := [reason for reason in learners.gather(own_reason) if reason]:
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
