"""Optimizers, and the parameter groups that they update in ways of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from asrkit.config_training import OptimizerConfig, ParameterGroupConfig
from asrkit.errors import UserError

BETAS = (0.9, 0.999)
DEFAULT_GROUPS = OptimizerConfig().groups


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a learning rate and a weight decay of their own."""

    name: str
    parameters: list[nn.Parameter]
    lr_scale: float
    weight_decay: float


def parameter_groups(
    module: nn.Module, groups: dict[str, ParameterGroupConfig], weight_decay: float
) -> list[ParameterGroup]:
    """Every parameter in one group: first those that no pattern matches, then the groups in their order.

    Args:
        module: all that is trained.
        groups: by name; patterns are of names such as ``model.encoder.blocks.0.conv.temporal.kernel.weight``.
        weight_decay: of the parameters that no pattern matches.

    Raises:
        UserError: a pattern that matches no parameter. (The default ones are for models that may not be there.)
    """
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        chosen = next((group for group, how in groups.items() if fnmatchcase(name, how.pattern)), None)
        (others if chosen is None else members[chosen]).append(parameter)
    for name, how in groups.items():
        if not members[name] and (name not in DEFAULT_GROUPS or how.pattern != DEFAULT_GROUPS[name].pattern):
            raise UserError(f"train.optimizer.groups.{name}.pattern: no parameter's name matches '{how.pattern}'")
    found = [ParameterGroup("", others, 1.0, weight_decay)]
    found += [ParameterGroup(name, members[name], how.lr_scale, how.weight_decay) for name, how in groups.items()]
    return [group for group in found if group.parameters]


def build_optimizer(config: OptimizerConfig, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
    """The optimizer of an experiment; its learning rates are set before each step, see :func:`set_learning_rate`."""
    parameters = [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups]
    if config.type == "adamw":
        return torch.optim.AdamW(parameters, betas=BETAS, fused=True)
    return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, groups: Sequence[ParameterGroup], lr: float) -> None:
    """Gives each group ``lr`` times its scale."""
    for options, group in zip(optimizer.param_groups, groups, strict=True):
        options["lr"] = lr * group.lr_scale
