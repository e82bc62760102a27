from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrkit.models.dss_spectrum import dss_spectra, plot_dss_spectra
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


def test_a_conformer_has_none() -> None:
    assert dss_spectra(tiny_model()) == []
