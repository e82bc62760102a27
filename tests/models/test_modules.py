from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from asrkit.losses.transducer import PAD_ROWS
from asrkit.models.attention import RelativeSelfAttention
from asrkit.models.conformer import Conformer
from asrkit.models.convolution import DepthwiseConv
from asrkit.models.dropout import Dropout
from asrkit.models.joiner import Joiner
from asrkit.models.predictor import LstmPredictor
from asrkit.models.subsampling import ConvSubsampling


def test_relative_attention_is_shaws_formula() -> None:
    torch.manual_seed(0)
    time, max_distance = 9, 3
    layer = RelativeSelfAttention(8, 2, 4, max_distance).double()
    x = torch.randn(1, time, 8, dtype=torch.float64)
    q, v = layer.query_value(x)[0].view(time, 2, 2, 4).unbind(1)  # each (T, H, d)
    k = layer.key(x)[0].view(time, 2, 4)
    expected = torch.zeros(time, 8, dtype=torch.float64)
    for head in range(2):
        scores = torch.zeros(time, time, dtype=torch.float64)
        for i in range(time):
            for j in range(time):
                r = layer.relative[max(-max_distance, min(max_distance, j - i)) + max_distance]
                scores[i, j] = q[i, head] @ (k[j, head] + r) / 4**0.5
        expected[:, 4 * head : 4 * head + 4] = torch.softmax(scores, -1) @ v[:, head]
    out = layer(x, torch.zeros(1, 1, 1, time, dtype=torch.float64))
    assert torch.allclose(out[0], layer.out(expected), atol=1e-12)


def test_relative_attention_gradients() -> None:
    torch.manual_seed(0)
    layer = RelativeSelfAttention(4, 2, 2, 2).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(2, 1, 1, 5, dtype=torch.float64)
    bias[1, ..., 3:] = float("-inf")
    assert torch.autograd.gradcheck(
        lambda x, r: torch.func.functional_call(layer, {"relative": r}, (x, bias)), (x, layer.relative)
    )


def test_depthwise_is_conv1d() -> None:
    torch.manual_seed(0)
    layer, x = DepthwiseConv(6, 5), torch.randn(2, 11, 6)
    expected = F.conv1d(x.transpose(1, 2), layer.conv.weight.squeeze(-1), layer.conv.bias, padding=2, groups=6)
    assert torch.allclose(layer(x), expected.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("subsampling", [4, 8])
def test_subsampling_length(subsampling: int) -> None:
    layer = ConvSubsampling(16, 4, 8, 0.0, subsampling)
    for frames in (1, 2, 4, 5, 8, 9, 100, 103):
        out, lens = layer(torch.randn(1, frames, 16), torch.tensor([frames]))
        assert out.shape == (1, int(lens[0]), 8) and lens[0] == -(-frames // subsampling)


def test_subsampling_sees_every_frame_once_at_least() -> None:
    torch.manual_seed(0)
    layer, x = ConvSubsampling(16, 4, 8, 0.0, 8), torch.randn(1, 48, 16, requires_grad=True)
    layer(x, torch.tensor([48]))[0].square().sum().backward()
    assert x.grad is not None and bool((x.grad.abs().sum(dim=-1) > 0).all())


def test_masked_frames_do_not_blow_up_gradients() -> None:
    torch.manual_seed(0)
    encoder = Conformer(16, num_layers=6, d_model=16, num_heads=2)
    x = torch.randn(2, 200, 16)
    norms = []
    for masked in (0, 100):
        x[:, 50 : 50 + masked] = 0.0  # as SpecAugment does
        encoder.zero_grad()
        encoder(x, torch.tensor([200, 200]))[0].square().mean().backward()
        norms.append(torch.stack([p.grad.norm() for p in encoder.parameters() if p.grad is not None]).norm().item())
    assert norms[1] < 10 * norms[0]


def test_frames_differ_at_the_start() -> None:
    torch.manual_seed(0)
    encoder = Conformer(80, num_layers=6, d_model=144, num_heads=4).eval()
    out, _ = encoder(torch.randn(4, 400, 80), torch.tensor([400] * 4))
    frames = out.flatten(0, 1)
    assert frames.var(0, unbiased=False).sum() > 0.3 * frames.square().mean(0).sum()


def test_predictor_step_repeats_forward() -> None:
    torch.manual_seed(0)
    predictor = LstmPredictor(7, 4, 5, 2, 0.3).eval()
    tokens = torch.tensor([[3, 1, 6], [2, 2, 5]])
    out = predictor(tokens)
    state = predictor.initial_state(2)
    for u, column in enumerate([torch.zeros(2, dtype=torch.int64), *tokens.unbind(1)]):
        step, state = predictor.step(column, state)
        assert torch.allclose(step, out[:, u], atol=1e-6)


def test_predictor_sees_no_later_label() -> None:
    predictor = LstmPredictor(7, 4, 5, 1, 0.0).eval()
    a, b = predictor(torch.tensor([[3, 1, 6]])), predictor(torch.tensor([[3, 1, 2]]))
    assert torch.equal(a[:, :3], b[:, :3]) and not torch.allclose(a[:, 3], b[:, 3])


@pytest.mark.parametrize("combination", ["add", "multiply"])
def test_joiner_is_the_formula(combination: str) -> None:
    torch.manual_seed(0)
    joiner = Joiner(4, 3, 5, 6, combination)
    h, g = torch.randn(1, 2, 4), torch.randn(1, 3, 3)
    e, p = joiner.encoder_proj(h[0, 1]), joiner.predictor_proj(g[0, 2])
    expected = joiner.out(torch.tanh(e + p if combination == "add" else e * p))
    logits = joiner(h, g)
    assert logits.shape == (1, 2, 3, 6)
    assert torch.allclose(logits[0, 1, 2], expected, atol=1e-6)


def test_dropout_keeps_the_mean_and_the_share() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.2)
    out = dropout(torch.ones(1_000_003))
    assert abs((out == 0).float().mean() - 51 / 256) < 2e-3
    assert abs(out.mean() - 1) < 2e-3
    assert torch.equal(dropout.eval()(torch.ones(5)), torch.ones(5))


def test_dropout_gradient_has_the_mask_of_the_output() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("combination", ["add", "multiply"])
def test_packed_joint_is_the_padded_one(combination: str) -> None:
    torch.manual_seed(0)
    joiner = Joiner(4, 3, 5, 6, combination)
    frames, labels = torch.tensor([7, 3]), torch.tensor([2, 4])
    grads = []
    for packed in (False, True):
        h, g = torch.linspace(-2, 2, 56).view(2, 7, 4), torch.linspace(-1, 3, 30).view(2, 5, 3)
        h.requires_grad_()
        g.requires_grad_()
        if packed:
            logits = joiner.packed(h, g, frames, labels)
            assert logits.shape == (PAD_ROWS, 6), "shapes that recur, whose kernels are compiled once"
            logits = logits[: 7 * 3 + 3 * 5]
        else:
            padded = joiner(h, g)
            logits = torch.cat([padded[0, :7, :3].flatten(0, 1), padded[1, :3, :5].flatten(0, 1)])
        joiner.zero_grad()
        logits.sin().sum().backward()
        grads.append([logits, h.grad, g.grad, *(p.grad for p in joiner.parameters())])
    for a, b in zip(*grads, strict=True):
        assert a is not None and b is not None and torch.allclose(a, b, atol=1e-5)
