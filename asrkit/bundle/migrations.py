"""Model files of earlier format versions, upgraded to the current one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

FORMAT = "2"
"""The version that is written."""
FUSED_FORMAT = "3"
"""The version of recognizers with language models, which older releases would ignore."""
Header = dict[str, str]
Tensors = dict[str, torch.Tensor]

_RENAMED = (
    # The bi-LSTM encoder's layers were torch's, with two directions.
    (r"(model\.encoder\.layers\.\d+)\.(\w+?)_l0", r"\1.forth.\2"),
    (r"(model\.encoder\.layers\.\d+)\.(\w+?)_l0_reverse", r"\1.back.\2"),
    # The predictor's LSTM was one module of several layers.
    (r"model\.predictor\.lstm\.(\w+?)_l(\d+)", r"model.predictor.layers.\2.\1"),
    # So were a language model's layers, with one layer each.
    (r"(model\.layers\.\d+)\.(\w+?)_l0", r"\1.\2"),
    # Training-only parts belonged to the model.
    (r"model\.((?:ctc_head|simple_joiner)\..+)", r"objective.\1"),
)
"""Patterns of tensor names in version 1, and names in version 2."""


def _from_version_1(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    return {"kind": "recognizer", **header}, {_renamed(name): tensor for name, tensor in tensors.items()}


def _renamed(name: str) -> str:
    for pattern, template in _RENAMED:
        if match := re.fullmatch(pattern, name):
            return match.expand(template)
    return name


MIGRATIONS: Mapping[str, tuple[str, Callable[[Header, Tensors], tuple[Header, Tensors]]]] = {
    "1": ("2", _from_version_1),
}
"""From one version to the next."""


def upgrade(header: Header, tensors: Tensors) -> tuple[Header, Tensors]:
    """Header and tensors in the current version; those of an unknown version are unchanged."""
    while (version := header.get("asrkit_format", "")) in MIGRATIONS:
        newer, migrate = MIGRATIONS[version]
        header, tensors = migrate(header, tensors)
        header["asrkit_format"] = newer
    return header, tensors
