from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from asrkit.config_training import STATE_SPACES, OptimizerConfig, ParameterGroupConfig
from asrkit.errors import UserError
from asrkit.models.dssformer import dssformer
from asrkit.training.objective import Trainable
from asrkit.training.optimizers import MATRICES, build_optimizer, parameter_groups, set_learning_rate
from tests.conftest import tiny_model


def trained() -> nn.Module:
    """A DSSformer of two layers."""
    return dssformer(16, dss={"state_dim": 4}, num_layers=2, d_model=16, num_heads=2)


def test_state_spaces_have_a_group_of_their_own() -> None:
    module = trained()
    others, spaces = parameter_groups(module, OptimizerConfig().groups, 0.1)
    assert (others.name, others.weight_decay, others.lr_scale) == ("", 0.1, 1.0)
    assert (spaces.name, spaces.weight_decay, spaces.lr_scale) == (STATE_SPACES, 0.0, 1.0)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = sorted(names[id(parameter)].rsplit(".", 1)[1] for parameter in spaces.parameters)
    assert found == sorted(["lambda_re", "lambda_im", "log_step", "weight"] * 2)
    assert len(others.parameters) + len(spaces.parameters) == len(list(module.parameters()))


def test_a_parameter_belongs_to_the_first_group_that_it_matches() -> None:
    groups = {
        "biases": ParameterGroupConfig("*.bias", lr_scale=2.0),
        STATE_SPACES: ParameterGroupConfig("*.temporal.kernel.*", lr_scale=5.0),
        "attention": ParameterGroupConfig("*.attention.*", weight_decay=0.3),
    }
    module = trained()
    found = {group.name: group for group in parameter_groups(module, groups, 0.1)}
    assert list(found) == ["", *groups]
    biases = [parameter for name, parameter in module.named_parameters() if name.endswith(".bias")]
    assert {id(p) for p in found["biases"].parameters} == {id(p) for p in biases}
    optimizer = build_optimizer(OptimizerConfig(), list(found.values()))
    set_learning_rate(optimizer, list(found.values()), 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.02, 0.05, 0.01])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0, 0.3]


def test_a_pattern_that_matches_nothing_is_named() -> None:
    plain = nn.Linear(2, 2)
    assert [group.name for group in parameter_groups(plain, OptimizerConfig().groups, 0.1)] == [""]
    for name in ("mine", STATE_SPACES):
        with pytest.raises(UserError, match=rf"groups\.{name}\.pattern: no parameter's name matches 'encodr\.\*'"):
            parameter_groups(plain, {name: ParameterGroupConfig("encodr.*")}, 0.1)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_update_rule(nesterov: bool) -> None:
    module = nn.Linear(1, 1, bias=False).double()
    start = module.weight.item()
    config = OptimizerConfig(type="sgd", momentum=0.5, nesterov=nesterov)
    groups = parameter_groups(module, {}, 0.0)
    optimizer = build_optimizer(config, groups)
    expected, velocity = start, 0.0
    for gradient in (1.0, -3.0, 2.0):
        set_learning_rate(optimizer, groups, 0.1)
        module.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        velocity = 0.5 * velocity + gradient
        expected -= 0.1 * (gradient + 0.5 * velocity if nesterov else velocity)
    assert module.weight.item() == pytest.approx(expected)


def test_muon_takes_the_encoders_matrices_and_resumes() -> None:
    torch.manual_seed(0)
    module = Trainable(tiny_model(), nn.Linear(3, 3))
    config = OptimizerConfig(type="muon")
    groups = parameter_groups(module, config.groups, 0.1, matrices=True)
    assert [group.name for group in groups] == ["", MATRICES]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    matrices = [names[id(parameter)] for parameter in groups[1].parameters]
    assert "model.encoder.blocks.0.ff1.up.weight" in matrices and "model.encoder.subsample.proj.weight" in matrices
    assert not [name for name in matrices if not name.startswith("model.encoder.") or "relative" in name]

    def steps(number: int, state: dict[str, Any] | None = None) -> tuple[dict[str, Any], torch.Tensor]:
        optimizer = build_optimizer(config, groups)
        if state is not None:
            optimizer.load_state_dict(state)
        for n in range(number):
            set_learning_rate(optimizer, groups, 1e-2)
            generator = torch.Generator().manual_seed(n + (0 if state is None else 2))
            for parameter in module.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return optimizer.state_dict(), module.model.get_parameter("encoder.blocks.0.ff1.up.weight").detach().clone()

    start = copy.deepcopy(module.state_dict())
    _, whole = steps(4)
    module.load_state_dict(start)
    saved, _ = steps(2)
    _, resumed = steps(2, saved)
    assert torch.equal(whole, resumed)
    # An orthogonalized update moves all directions of a matrix about equally.
    moved = torch.linalg.svdvals(whole - start["model.encoder.blocks.0.ff1.up.weight"])
    assert moved.max() < 3 * moved.min()
    with pytest.raises(UserError, match="muon needs an encoder"):
        build_optimizer(config, parameter_groups(nn.Linear(2, 2), {}, 0.0, matrices=True))
