"""What every encoder promises, and the sizes of the papers' models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asrkit.bundle.build import build_transducer
from asrkit.config_files import load_config
from asrkit.devices import autocast
from asrkit.models.blstm import BlstmEncoder
from asrkit.models.conformer import Conformer
from asrkit.models.dssformer import dssformer
from asrkit.models.encoder import Encoder
from asrkit.models.transducer import num_parameters
from tests.conftest import ROOT

CONFORMER: dict[str, Any] = {
    "num_layers": 2,
    "d_model": 16,
    "num_heads": 2,
    "conv_kernel": 5,
    "max_relative_distance": 8,
}
SOFTMAX: dict[str, Any] = {"state_dim": 8, "form": "softmax", "kernel_length": 16}
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "conformer": lambda: Conformer(16, **CONFORMER),
    "conformer at the input's rate": lambda: Conformer(16, subsampling=1, conv_expansion=2, head_dim=6, **CONFORMER),
    "conformer at an eighth of it": lambda: Conformer(16, subsampling=8, subsampling_channels=8, **CONFORMER),
    "dssformer": lambda: dssformer(16, dss={"state_dim": 8}, **CONFORMER),
    "dssformer, softmax": lambda: dssformer(16, dss=SOFTMAX, **CONFORMER),
    "bi-LSTM": lambda: BlstmEncoder(16, num_layers=2, cells=8, dropout=0.25, drop_connect=0.25),
}


@pytest.fixture(params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[request.param]()


def test_padding_and_the_batch_change_nothing(encoder: Encoder) -> None:
    encoder.eval()
    lens = torch.tensor([61, 37, 20, 1])
    batch = torch.randn(4, 61, 16) * 3
    together, out_lens = encoder(batch, lens)
    assert together.shape == (4, -(-61 // encoder.subsampling), encoder.output_dim)
    for b, length in enumerate(lens.tolist()):
        alone, alone_lens = encoder(batch[b : b + 1, :length], lens[b : b + 1])
        assert alone_lens[0] == out_lens[b] == -(-length // encoder.subsampling)
        assert (alone[0] - together[b, : out_lens[b]]).abs().max() < 1e-5
        assert together[b, out_lens[b] :].abs().sum() == 0


def test_every_weight_has_a_gradient(encoder: Encoder) -> None:
    encoder(torch.randn(2, 30, 16), torch.tensor([30, 20]))[0].square().sum().backward()
    grads = {name: p.grad for name, p in encoder.named_parameters() if p.ndim > 1}
    assert [name for name, grad in grads.items() if grad is None or not grad.abs().sum() > 0] == []


def test_bf16_autocast_stays_close(encoder: Encoder) -> None:
    encoder.eval()
    x, lens = torch.randn(1, 40, 16), torch.tensor([40])
    with autocast(torch.device("cpu"), "bf16"):
        low, _ = encoder(x, lens)
    full, _ = encoder(x, lens)
    assert (low.float() - full).abs().max() < 0.15


def test_drop_connect_changes_training_alone() -> None:
    torch.manual_seed(0)
    encoder = BlstmEncoder(4, num_layers=1, cells=8, dropout=0.0, drop_connect=0.5)
    x, lens = torch.randn(2, 9, 4), torch.tensor([9, 5])
    first, second = encoder(x, lens)[0], encoder(x, lens)[0]
    assert not torch.allclose(first, second)
    encoder.eval()
    assert torch.equal(encoder(x, lens)[0], encoder(x, lens)[0])


def test_blstm_is_torchs() -> None:
    torch.manual_seed(0)
    encoder = BlstmEncoder(4, num_layers=2, cells=3, dropout=0.0, drop_connect=0.0).eval()
    reference = torch.nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)
    for layer, module in enumerate(encoder.layers):
        for name, weight in module.named_parameters():
            direction, name = name.split(".")
            suffix = "_reverse" if direction == "back" else ""
            getattr(reference, f"{name}_l{layer}{suffix}").data.copy_(weight)
    x, lens = torch.randn(2, 9, 4), torch.tensor([9, 5])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lens, batch_first=True)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    assert torch.allclose(encoder(x, lens)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("blstm_57m", 57_164_282, 57_164_282),
        ("conformer_46m", 46.25e6, 46.4e6),
        ("conformer_74m", 74.0e6, 74.2e6),
        ("conformer_109m", 108.6e6, 108.8e6),
        ("dssformer_73m", 72e6, 74e6),
    ],
)
def test_papers_models_have_their_sizes(name: str, least: float, most: float) -> None:
    config = load_config(ROOT / "conf" / "model" / f"{name}.yaml", ["loss.ctc_weight=0"])
    with torch.device("meta"):
        model = build_transducer(config, vocab_size=46)
    assert least <= num_parameters(model) <= most
