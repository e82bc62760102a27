from __future__ import annotations

import pytest
import torch
from torch import nn

from asrkit.devices import autocast, resolve_autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize("multiplies", [True, False])
def test_auto_is_bf16_where_the_processor_multiplies_in_it(monkeypatch: pytest.MonkeyPatch, multiplies: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies)
    assert resolve_autocast(CPU, "auto") == ("bf16" if multiplies else "none")
    assert [resolve_autocast(CPU, name) for name in ("none", "bf16", "fp16")] == ["none", "bf16", "fp16"]


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("module", [nn.LSTM(8, 4, batch_first=True), nn.Linear(8, 4)])
def test_bf16_runs_on_every_processor(monkeypatch: pytest.MonkeyPatch, module: nn.Module, supported: bool) -> None:
    if supported and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bf16 on this processor")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    outs = []
    for name in ("bf16", "none"):
        with autocast(CPU, name):
            assert torch._C._get_mkldnn_enabled() == (supported or name == "none")
            out = module(x)
            outs.append(out[0] if isinstance(out, tuple) else out)
    assert torch._C._get_mkldnn_enabled()
    low, full = outs
    assert 0 < (low.float() - full).abs().max() < 0.03 and full.dtype == torch.float32
    (grad,) = torch.autograd.grad(low.float().sum(), [next(module.parameters())])
    assert grad.abs().sum() > 0
