"""Optimizers, and the parameter groups that they update differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from asrkit.config_training import OptimizerConfig, ParameterGroupConfig
from asrkit.errors import UserError

BETAS = (0.9, 0.999)
MATRICES = "matrices"
"""Group that Muon updates."""
DEFAULT_GROUPS = OptimizerConfig().groups


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with their own learning rate and weight decay."""

    name: str
    parameters: list[nn.Parameter]
    lr_scale: float
    weight_decay: float


def parameter_groups(
    module: nn.Module, groups: dict[str, ParameterGroupConfig], weight_decay: float, matrices: bool = False
) -> list[ParameterGroup]:
    """Every parameter in one group: first those that no pattern matches, then the groups in order.

    Args:
        module: all that is trained.
        groups: by name; patterns match names such as ``model.encoder.blocks.0.conv.temporal.kernel.weight``.
        weight_decay: for the parameters that no pattern matches.
        matrices: put the encoder's weight matrices that no pattern matches into their own last group.

    Raises:
        UserError: a pattern matches no parameter, unless it is a default, whose model may be absent.
    """
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    others: list[nn.Parameter] = []
    inner: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        chosen = next((group for group, how in groups.items() if fnmatchcase(name, how.pattern)), None)
        if chosen is not None:
            members[chosen].append(parameter)
        elif matrices and parameter.dim() == 2 and fnmatchcase(name, "model.encoder.*.weight*"):
            inner.append(parameter)
        else:
            others.append(parameter)
    for name, how in groups.items():
        if not members[name] and (name not in DEFAULT_GROUPS or how.pattern != DEFAULT_GROUPS[name].pattern):
            raise UserError(
                f"train.optimizer.groups.{name}.pattern: no parameter's name matches '{how.pattern}', except those "
                "of earlier groups"
            )
    result = [ParameterGroup("", others, 1.0, weight_decay)]
    result += [ParameterGroup(name, members[name], how.lr_scale, how.weight_decay) for name, how in groups.items()]
    result.append(ParameterGroup(MATRICES, inner, 1.0, weight_decay))
    return [group for group in result if group.parameters]


def build_optimizer(config: OptimizerConfig, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
    """The optimizer of an experiment; its learning rates are set before each step, see :func:`set_learning_rate`.

    Raises:
        UserError: Muon without encoder matrices.
    """
    parameters = [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups]
    if config.type == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    if config.type == "adamw":
        return torch.optim.AdamW(parameters, betas=BETAS, fused=True)
    is_muon = [group.name == MATRICES for group in groups]
    matrices = [group for group, is_one in zip(parameters, is_muon, strict=True) if is_one]
    others = [group for group, is_one in zip(parameters, is_muon, strict=True) if not is_one]
    if not matrices or not others:
        raise UserError("train.optimizer.type=muon needs an encoder whose matrices it updates; set adamw")
    # With updates as large as AdamW's, both take the same learning rate (Liu et al. 2025, arXiv 2502.16982).
    muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
    return Together([torch.optim.AdamW(others, betas=BETAS, fused=True), muon])


class Together(torch.optim.Optimizer):
    """Several optimizers, each with its own parameters, as one."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})
        # The same dictionaries that the optimizers read: learning rates are set in them.
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Steps every optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of every optimizer."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


def set_learning_rate(optimizer: torch.optim.Optimizer, groups: Sequence[ParameterGroup], lr: float) -> None:
    """Sets each group to ``lr`` times its scale."""
    for options, group in zip(optimizer.param_groups, groups, strict=True):
        options["lr"] = lr * group.lr_scale
