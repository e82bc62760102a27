from __future__ import annotations

import pytest
import torch

from asrkit.models.language_model import (
    LanguageModel,
    LstmLanguageModel,
    LstmSteps,
    TransformerLanguageModel,
    line_log_probs,
)
from asrkit.models.transducer import num_parameters


def lstm() -> LstmLanguageModel:
    torch.manual_seed(0)
    return LstmLanguageModel(7, 8, 2, 5).double().eval()


def transformer() -> TransformerLanguageModel:
    torch.manual_seed(0)
    return TransformerLanguageModel(7, 8, 2, 2, 12).double().eval()


def test_the_papers_sizes() -> None:
    """Saon et al. 2021 (arXiv 2103.09935): 5 M and 84 M on 45 characters."""
    with torch.device("meta"):
        assert round(num_parameters(LstmLanguageModel(46, 768, 1, 256)) / 1e6, 2) == 4.97
        assert round(num_parameters(LstmLanguageModel(46, 2048, 2, 256)) / 1e6, 2) == 84.55


@pytest.mark.parametrize("model", [lstm(), transformer()], ids=["lstm", "transformer"])
def test_probabilities_sum_to_1_and_see_no_later_symbol(model: LanguageModel) -> None:
    a, b = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 6, 6]])
    out = model(a)
    assert out.shape == (1, 5, 7)
    assert torch.allclose(out.exp().sum(-1), torch.ones(1, 5, dtype=torch.float64))
    assert torch.allclose(out[:, :3], model(b)[:, :3], atol=1e-12)
    assert not torch.allclose(out[:, 3:], model(b)[:, 3:])


def test_step_repeats_forward() -> None:
    model, tokens = lstm(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    steps = LstmSteps(model)
    state, before = steps.initial_state(1), torch.tensor([0, 0])  # both follow the one empty line
    for u, column in enumerate([torch.zeros(2, dtype=torch.int64), *tokens.unbind(1)]):
        out, state = steps.step(column, state, before)
        before = torch.tensor([0, 1])
        assert torch.allclose(out, model(tokens)[:, u], atol=1e-12)


@pytest.mark.parametrize("model", [lstm(), transformer()], ids=["lstm", "transformer"])
def test_lines_by_hand_whatever_the_padding(model: LanguageModel) -> None:
    tokens, lens = torch.tensor([[1, 2, 3, 4], [5, 6, 3, 3]]), torch.tensor([4, 2])
    for with_end in (False, True):
        found = line_log_probs(model, tokens, lens, with_end)
        for b in range(2):
            line = tokens[b, : lens[b]].tolist() + ([0] if with_end else [])
            out = model(tokens[b : b + 1, : lens[b]])[0]
            assert abs(found[b].item() - sum(out[u, k].item() for u, k in enumerate(line))) < 1e-12


def test_a_line_beyond_the_positions_is_an_error() -> None:
    with pytest.raises(ValueError, match="reads up to 11"):
        transformer()(torch.ones(1, 12, dtype=torch.int64))
