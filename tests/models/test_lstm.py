from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from asrkit.models.lstm import LstmLayer


@pytest.fixture
def layer() -> LstmLayer:
    torch.manual_seed(0)
    return LstmLayer(5, 3).double()


def test_a_sequence_is_torchs(layer: LstmLayer) -> None:
    reference = nn.LSTM(5, 3).double()
    for name, parameter in layer.named_parameters():
        getattr(reference, f"{name}_l0").data.copy_(parameter)
    x, h, c = torch.randn(7, 2, 5).double(), torch.randn(2, 3).double(), torch.randn(2, 3).double()
    expected, (last_h, last_c) = reference(x, (h[None], c[None]))
    out, state = layer.run(x, (h, c))
    assert torch.allclose(out, expected) and torch.allclose(state[0], last_h[0]) and torch.allclose(state[1], last_c[0])
    assert torch.allclose(layer.run(x)[0], reference(x)[0])


def test_it_starts_as_torchs() -> None:
    torch.manual_seed(3)
    ours = [parameter.clone() for parameter in LstmLayer(5, 3).parameters()]
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(ours, nn.LSTM(5, 3).parameters(), strict=True))


def test_steps_are_the_sequence_and_the_equations(layer: LstmLayer) -> None:
    x = torch.randn(6, 2, 5).double()
    whole, last = layer.run(x)
    state = layer.initial_state(2)
    for t in range(6):
        h, c = state
        gates = x[t] @ layer.weight_ih.T + h @ layer.weight_hh.T + layer.bias_ih + layer.bias_hh
        input, forget, cell, output = gates.chunk(4, dim=1)
        c = forget.sigmoid() * c + input.sigmoid() * cell.tanh()
        out, state = layer.step(x[t], state)
        assert torch.allclose(out, whole[t]) and torch.allclose(state[1], c)
        assert torch.allclose(out, output.sigmoid() * c.tanh())
    assert torch.allclose(state[0], last[0])


def test_weights_may_be_given(layer: LstmLayer) -> None:
    x, dropped = torch.randn(4, 2, 5).double(), torch.zeros(12, 3).double()
    forgetful = layer.run(x, drop=lambda weight: dropped)[0]
    with torch.no_grad():
        layer.weight_hh.zero_()
    assert torch.equal(layer.run(x)[0], forgetful)


def test_gradients(layer: LstmLayer) -> None:
    x = torch.randn(3, 2, 5).double().requires_grad_()

    def run(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        names = [f"layer.{name}" for name, _ in layer.named_parameters()]
        out: torch.Tensor = torch.func.functional_call(Run(layer), dict(zip(names, weights, strict=True)), x)
        return out

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


class Run(nn.Module):
    """A layer over a sequence as a module's forward."""

    def __init__(self, layer: LstmLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, B, I) to (T, B, H)."""
        return self.layer.run(x)[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_weights_lie_together_on_cuda() -> None:
    torch.manual_seed(0)
    layer, x = LstmLayer(5, 3), torch.randn(7, 2, 5)
    expected = layer.run(x)[0]
    layer = layer.cuda()
    with warnings.catch_warnings(), torch.backends.cudnn.flags(allow_tf32=False):
        warnings.simplefilter("error")  # cuDNN warns of weights that it has to copy together
        found = layer.run(x.cuda())[0]
    assert torch.allclose(found.cpu(), expected, atol=1e-5)
