from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from asrkit.models.dss import DssKernel
from asrkit.models.dss_spectrum import (
    RIDGE,
    Moved,
    dss_spectra,
    local_reach,
    movements,
    plot_dss_spectra,
    spectrum_table,
)
from asrkit.models.dssformer import dssformer
from tests.conftest import tiny_model


def test_slopes_are_those_of_the_initialisation(tmp_path: Path) -> None:
    for init, slope in (("linear", 1.0), ("s4d_lin", torch.pi)):
        encoder = dssformer(16, dss={"state_dim": 12, "init": init}, num_layers=2, d_model=16, num_heads=2)
        spectra = dss_spectra(encoder)
        assert len(spectra) == 2
        assert all(layer.slope == pytest.approx(slope, rel=1e-5) for layer in spectra)
    assert torch.allclose(spectra[0].attenuations, torch.full((12,), 0.5))
    plot_dss_spectra(spectra, tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_small_steps_have_no_local_filter_in_reach() -> None:
    """Paper's range at 40 ms frames, the range that trains, and steps so large that frequencies fold over."""
    eigenvalues = torch.complex(-torch.ones(64), torch.arange(64.0))
    reach = local_reach(eigenvalues, torch.tensor([0.002, 0.05, 0.1, 0.2, 2.0]))
    assert reach[0] < 0.08 and (reach[1:4] > 0.85).all() and reach[4] < 0.6
    # A filter of its own frame and those before is in reach of a causal system too, one that looks ahead is not needed.
    causal = local_reach(eigenvalues, torch.tensor([0.002, 0.1]), bidirectional=False)
    assert causal[0] < 0.08 and causal[1] > 0.7


def test_reach_is_what_a_fit_with_moderate_weights_leaves() -> None:
    """Against a fit by gradient descent on the layer's own kernel."""
    kernel = DssKernel(1, 8, "linear", "exp", True, steps=(0.1, 0.1 + 1e-9))
    eigenvalues = torch.complex(*(part.detach() for part in kernel.eigenvalues()))
    expected = local_reach(eigenvalues, torch.tensor([0.1])).item()
    missed = [_fit(kernel, tap) for tap in range(-3, 4)]
    assert expected == pytest.approx(1 - sum(missed) / len(missed), abs=2e-3)


def _fit(kernel: DssKernel, tap: int) -> float:
    """Least price of a kernel that is one impulse, ``tap`` frames from its own."""
    weight = torch.zeros_like(kernel.weight, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=300, tolerance_grad=1e-9, line_search_fn="strong_wolfe")
    target = torch.zeros(2, 200)
    target[0 if tap >= 0 else 1, tap if tap >= 0 else -1 - tap] = 1.0

    def price() -> torch.Tensor:
        optimizer.zero_grad()
        made = torch.func.functional_call(kernel, {"weight": weight}, (200,))[:, 0]
        value: torch.Tensor = (made - target).square().sum() + RIDGE * weight.square().sum()
        value.backward()
        return value

    optimizer.step(price)
    return price().item()


def test_movements_are_distances_from_the_start() -> None:
    torch.manual_seed(0)
    before = dssformer(16, dss={"state_dim": 4}, num_layers=2, d_model=16, num_heads=2)
    after = copy.deepcopy(before)
    kernel = after.blocks[1].get_submodule("conv.temporal.kernel")
    with torch.no_grad():
        kernel.get_parameter("log_step")[3] += 0.5
        kernel.get_parameter("lambda_im")[2] -= 1.5
        kernel.get_parameter("lambda_re").add_(0.25)
    first, second = movements(before, after)
    assert first == Moved(0.0, 0.0, 0.0, 0.0)
    found = (second.log_step, second.attenuation, second.frequency, second.weight)
    assert found == pytest.approx((0.5, 0.25, 1.5, 0.0), abs=1e-5)
    table = spectrum_table(dss_spectra(after), [first, second], could_move=1.7)
    assert len(table.splitlines()) == 4 and "1.70" in table.splitlines()[-1] and "0.50 | 0.25 | 1.50" in table


def test_a_conformer_has_none() -> None:
    assert dss_spectra(tiny_model()) == []
