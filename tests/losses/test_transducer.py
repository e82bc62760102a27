from __future__ import annotations

import math

import pytest
import torch
from torchaudio.functional import rnnt_loss

from asrkit.losses import transducer
from asrkit.losses.transducer import padded_rows, transducer_loss, transducer_posteriors
from tests.losses.brute_force import brute_force, pack, random_lattices


def test_equals_the_sum_over_all_alignments() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((6, 5, 3, 6))
    token_lens[1] = 0
    losses = transducer_loss(logits, tokens, frame_lens, token_lens)
    for b in range(6):
        t, u = int(frame_lens[b]), int(token_lens[b])
        expected = brute_force(torch.log_softmax(logits[b, :t, : u + 1], -1), tokens[b, :u].tolist())
        assert losses[b].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("blank_id", [2, 5])
def test_blank_may_be_any_symbol(blank_id: int) -> None:
    logits, _, frame_lens, token_lens = random_lattices((3, 4, 3, 6))
    tokens = torch.tensor([[1, 3, 4]] * 3)
    losses = transducer_loss(logits, tokens, frame_lens, token_lens, blank_id=blank_id)
    for b in range(3):
        t, u = int(frame_lens[b]), int(token_lens[b])
        expected = brute_force(torch.log_softmax(logits[b, :t, : u + 1], -1), tokens[b, :u].tolist(), blank_id)
        assert losses[b].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 50, 20, 30), (2, 7, 12, 5), (3, 1, 4, 4)])
def test_value_and_gradient_are_torchaudios(shape: tuple[int, int, int, int]) -> None:
    logits, tokens, frame_lens, token_lens = random_lattices(shape)
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weights = torch.arange(1.0, shape[0] + 1)
    losses = transducer_loss(mine, tokens, frame_lens, token_lens)
    expected = rnnt_loss(theirs, tokens.int(), frame_lens.int(), token_lens.int(), blank=0, reduction="none")
    assert torch.allclose(losses, expected, rtol=1e-4)
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    assert mine.grad is not None and theirs.grad is not None
    for b in range(shape[0]):  # torchaudio leaves the padding of its gradient undefined
        t, u = int(frame_lens[b]), int(token_lens[b]) + 1
        assert (mine.grad[b, :t, :u] - theirs.grad[b, :t, :u]).abs().max() < 1e-4 * shape[0]
        assert mine.grad[b, t:].abs().sum() == 0 and mine.grad[b, :, u:].abs().sum() == 0


@pytest.mark.parametrize("packed", [False, True])
def test_gradient_is_the_derivative(packed: bool) -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((3, 4, 3, 5), dtype=torch.float64)
    inputs = pack(logits, frame_lens, token_lens) if packed else logits
    inputs.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transducer_loss(x, tokens, frame_lens, token_lens), inputs)


def test_packed_is_padded_without_padding() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((5, 30, 12, 7))
    padded, packed = logits.clone().requires_grad_(), pack(logits, frame_lens, token_lens)
    rows = len(packed)
    packed = torch.cat([packed, torch.full((padded_rows(rows) - rows, 7), torch.inf)]).requires_grad_()
    for x in (padded, packed):
        transducer_loss(x, tokens, frame_lens, token_lens, reduction="sum").backward()
    assert padded.grad is not None and packed.grad is not None
    assert torch.equal(pack(padded.grad, frame_lens, token_lens), packed.grad[:rows])
    assert not packed.grad[rows:].any()


def test_neither_padding_nor_the_batch_changes_an_utterance() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((4, 9, 6, 6))
    together = transducer_loss(logits, tokens, frame_lens, token_lens)
    wider = torch.nn.functional.pad(logits, (0, 0, 0, 2, 0, 3), value=float("nan"))
    assert torch.equal(transducer_loss(wider, tokens, frame_lens, token_lens), together)
    order = torch.tensor([2, 0, 3, 1])
    permuted = transducer_loss(logits[order], tokens[order], frame_lens[order], token_lens[order])
    assert torch.equal(permuted, together[order])
    for b in range(4):
        one = slice(b, b + 1)
        alone = transducer_loss(logits[one], tokens[one], frame_lens[one], token_lens[one])
        assert alone.item() == pytest.approx(together[b].item(), rel=1e-6)


def test_reductions() -> None:
    arguments = random_lattices((3, 5, 4, 5))
    each = transducer_loss(*arguments)
    assert torch.allclose(transducer_loss(*arguments, reduction="sum"), each.sum())
    assert torch.allclose(transducer_loss(*arguments, reduction="mean"), each.mean())
    with pytest.raises(ValueError, match="reduction must be"):
        transducer_loss(*arguments, reduction="median")


def test_posteriors_are_distributions() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((4, 20, 6, 5))
    posteriors = transducer_posteriors(logits, tokens, frame_lens, token_lens)
    assert torch.allclose(-posteriors.log_likelihood.float(), transducer_loss(logits, tokens, frame_lens, token_lens))
    for b in range(4):
        t, u = int(frame_lens[b]), int(token_lens[b])
        emitted = posteriors.label[b].sum(0)  # each label is emitted once, each frame left once
        assert torch.allclose(emitted[:u], torch.ones(u, dtype=torch.float64), atol=1e-9) and emitted[u:].sum() == 0
        left = posteriors.blank[b].sum(1)
        assert torch.allclose(left[:t], torch.ones(t, dtype=torch.float64), atol=1e-9) and left[t:].sum() == 0


def test_fastemit_scales_the_gradient_of_labels() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((2, 6, 3, 5), dtype=torch.float64)
    posteriors = transducer_posteriors(logits, tokens, frame_lens, token_lens)

    def gradient(fastemit_lambda: float) -> torch.Tensor:
        x = logits.clone().requires_grad_()
        transducer_loss(x, tokens, frame_lens, token_lens, fastemit_lambda=fastemit_lambda).sum().backward()
        assert x.grad is not None
        return x.grad

    # What is added is λ times the gradient of -Σ posterior · log p(label), the posteriors held fixed.
    x = logits.clone().requires_grad_()
    index = torch.nn.functional.pad(tokens, (0, 1))[:, None, :, None].expand(-1, 6, -1, -1)
    label = torch.log_softmax(x, -1).gather(3, index).squeeze(3)
    (-(posteriors.label * label).sum()).backward()
    assert x.grad is not None
    assert torch.allclose(gradient(0.3) - gradient(0.0), 0.3 * x.grad, atol=1e-12)


def test_clamp_bounds_each_element() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((2, 6, 3, 5))
    grads = []
    for clamp in (0.0, 0.05):
        x = logits.clone().requires_grad_()
        transducer_loss(x, tokens, frame_lens, token_lens, clamp=clamp).sum().backward()
        assert x.grad is not None
        grads.append(x.grad)
    assert grads[0].abs().max() > 0.05
    assert torch.equal(grads[1], grads[0].clamp(-0.05, 0.05))


def test_a_lattice_of_ten_thousand_frames() -> None:
    times, labels = 10_000, 500
    logits = torch.zeros(1, times, labels + 1, 3, requires_grad=True)
    tokens = torch.ones(1, labels, dtype=torch.int64)
    lens, label_lens = torch.tensor([times]), torch.tensor([labels])
    loss = transducer_loss(logits, tokens, lens, label_lens).sum()
    # All alignments are equally probable; the last blank is fixed, so labels choose among T + U - 1 places.
    ways = math.lgamma(times + labels) - math.lgamma(labels + 1) - math.lgamma(times)
    assert loss.item() == pytest.approx((times + labels) * math.log(3) - ways, rel=1e-6)
    loss.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_what_is_impossible_is_infinite_with_gradient_zero() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((2, 5, 3, 6))
    tokens[0, 0] = 3
    logits[0, ..., 3] = float("-inf")
    logits.requires_grad_()
    losses = transducer_loss(logits, tokens, frame_lens, token_lens)
    assert losses[0] == math.inf and torch.isfinite(losses[1])
    losses.sum().backward()
    assert logits.grad is not None and logits.grad[0].abs().sum() == 0 and torch.isfinite(logits.grad[1]).all()


def test_bf16_logits_are_reduced_in_float32() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((2, 40, 20, 30))
    low = logits.bfloat16()
    losses = transducer_loss(low.requires_grad_(), tokens, frame_lens, token_lens)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, transducer_loss(low.detach().float(), tokens, frame_lens, token_lens))
    losses.sum().backward()
    assert low.grad is not None and low.grad.dtype == torch.bfloat16


def test_what_does_not_fit_is_said() -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((2, 5, 3, 6))
    with pytest.raises(ValueError, match="do not hold the lattices"):
        transducer_loss(logits[:, :3], tokens, frame_lens, token_lens)
    with pytest.raises(ValueError, match="do not hold the lattices"):
        transducer_loss(pack(logits, frame_lens, token_lens)[1:], tokens, frame_lens, token_lens)
    packed = pack(logits, frame_lens, token_lens)
    with pytest.raises(ValueError, match="do not hold the lattices"):
        transducer_loss(torch.cat([packed, packed[:1]]), tokens, frame_lens, token_lens)
    with pytest.raises(ValueError, match="has no encoder frame"):
        transducer_loss(logits, tokens, torch.tensor([5, 0]), token_lens)
    with pytest.raises(ValueError, match="blank_id 6"):
        transducer_loss(logits, tokens, frame_lens, token_lens, blank_id=6)


def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small on a CPU, large on CUDA."""
    logits, tokens, frame_lens, token_lens = random_lattices((4, 20, 9, 7))
    found = []
    for elements in (1, 500, 1 << 25):
        monkeypatch.setattr(transducer, "BLOCK_ELEMENTS", elements)
        x = logits.clone().requires_grad_()
        losses = transducer_loss(x, tokens, frame_lens, token_lens)
        losses.sum().backward()
        assert x.grad is not None
        found.append((losses.detach(), x.grad))
    assert all(torch.allclose(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("packed", [False, True])
def test_cuda_gives_the_value_and_gradient_of_the_cpu(packed: bool) -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((4, 50, 20, 30))
    inputs = pack(logits, frame_lens, token_lens) if packed else logits
    there, here = inputs.cuda().requires_grad_(), inputs.clone().requires_grad_()
    losses = transducer_loss(there, tokens.cuda(), frame_lens.cuda(), token_lens.cuda())
    expected = transducer_loss(here, tokens, frame_lens, token_lens)
    assert torch.allclose(losses.cpu(), expected, rtol=1e-5)
    losses.sum().backward()
    expected.sum().backward()
    assert there.grad is not None and here.grad is not None
    assert (there.grad.cpu() - here.grad).abs().max() < 1e-5
