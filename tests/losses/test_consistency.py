from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from asrkit.losses.consistency import consistency_loss


def test_it_is_the_two_divergences() -> None:
    torch.manual_seed(0)
    logits, lens = torch.randn(4, 7, 5), torch.tensor([7, 3, 7, 3])
    found = consistency_loss(logits, lens)
    for b in range(2):
        one, other = logits[b, : lens[b]].log_softmax(-1), logits[2 + b, : lens[b]].log_softmax(-1)
        both = F.kl_div(one, other, log_target=True, reduction="sum") + F.kl_div(
            other, one, log_target=True, reduction="sum"
        )
        assert found[b].item() == pytest.approx(0.5 * both.item(), rel=1e-5)
    assert torch.equal(consistency_loss(torch.cat([logits[:2], logits[:2]]), lens), torch.zeros(2))
    padded = F.pad(logits, (0, 0, 0, 4), value=9.0)
    assert torch.allclose(consistency_loss(padded, lens), found)


def test_a_view_learns_from_the_other_which_stays() -> None:
    """The gradient is that of each divergence by its learner alone."""
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    consistency_loss(logits, torch.tensor([6, 6])).sum().backward()
    assert logits.grad is not None
    for learner, teacher in ((0, 1), (1, 0)):
        expected = 0.5 * (logits[learner].softmax(-1) - logits[teacher].softmax(-1))  # of KL(teacher || learner)
        assert torch.allclose(logits.grad[learner], expected.detach(), atol=1e-6)


def test_what_is_no_two_views_is_refused() -> None:
    with pytest.raises(ValueError, match="no two views"):
        consistency_loss(torch.zeros(3, 4, 5), torch.tensor([4, 4, 4]))
    with pytest.raises(ValueError, match="differ in length"):
        consistency_loss(torch.zeros(2, 4, 5), torch.tensor([4, 3]))
