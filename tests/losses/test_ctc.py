from __future__ import annotations

import torch
from torch.nn import functional as F

from asrkit.losses.ctc import ctc_loss


def test_ctc_is_torchs_and_safe_for_impossible_labels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 5)
    tokens, lens = torch.tensor([[1, 2, 3], [2, 2, 2]]), torch.tensor([6, 3])
    losses = ctc_loss(logits, tokens, lens, torch.tensor([3, 3]))
    log_probs = torch.log_softmax(logits[:1], -1).transpose(0, 1)
    expected = F.ctc_loss(log_probs, tokens[:1], lens[:1], torch.tensor([3]), reduction="sum")
    assert torch.allclose(losses[0], expected, atol=1e-5)
    assert losses[1] == 0.0  # three equal labels need five frames
