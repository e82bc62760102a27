"""The checks of Li et al. 2025 (arXiv 2410.02167) on a small and seeded scale."""

from __future__ import annotations

import itertools

import pytest
import torch

from asrkit.studies.cot import (
    Noise,
    World,
    attention_groups,
    chain_error,
    chain_of_thought,
    draw_test_set,
    final_error,
    forward,
    in_context_learning,
    initial_parameters,
    majority_vote,
    train,
    training_prompts,
    trajectory_probability,
)
from asrkit.studies.one_layer import Tensors, attention

WORLD = World()
PATTERNS = WORLD.testing_patterns(torch.Generator().manual_seed(5))
Trained = tuple[Tensors, list[int], list[torch.Tensor]]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """One seed, 1000 iterations, with the attention groups along the way."""
    generator = torch.Generator().manual_seed(1)
    test = training_prompts(WORLD, torch.tensor([0.4]), 200, 20, torch.Generator().manual_seed(2))
    steps: list[int] = []
    groups: list[torch.Tensor] = []

    def watch(step: int, parameters: Tensors) -> None:
        if step % 20 == 0:
            steps.append(step)
            groups.append(attention_groups(parameters, test)[:, 0])

    parameters = train(
        initial_parameters(WORLD, 0.2, [1]),
        lambda: training_prompts(WORLD, torch.tensor([0.4]), 128, 20, generator),
        1000,
        1.0,
        watch,
    )
    return parameters, steps, groups


def errors(parameters: Tensors, alpha: float, noise: Noise, examples: int) -> tuple[float, float]:
    """Chain-of-thought and in-context error over 2000 queries."""
    generator = torch.Generator().manual_seed(7)
    test = draw_test_set(WORLD, noise, PATTERNS, torch.tensor([alpha]), 2000, examples, generator)
    return (
        chain_error(chain_of_thought(parameters, WORLD, test), test).item(),
        final_error(in_context_learning(parameters, WORLD, test), test).item(),
    )


def test_the_papers_worked_example() -> None:
    first, second = torch.tensor([[0.6, 0.4], [0.4, 0.6]]), torch.tensor([[0.4, 0.6], [0.8, 0.2]])
    product, tau, tau_o, condition = trajectory_probability([first, second])
    assert torch.allclose(product, torch.tensor([[0.56, 0.44], [0.64, 0.36]]))
    assert abs(tau - 0.36) < 1e-6 and abs(tau_o - 0.56) < 1e-6
    assert condition.tolist() == [False, True]


def test_patterns_and_positions_are_orthonormal() -> None:
    train_patterns, test_patterns = WORLD.training_patterns(), WORLD.testing_patterns(torch.Generator().manual_seed(0))
    assert torch.allclose(train_patterns @ train_patterns.T, torch.eye(20), atol=1e-6)
    assert torch.allclose(test_patterns @ test_patterns.T, torch.eye(10), atol=1e-5)
    assert torch.allclose((test_patterns @ train_patterns.T).norm(dim=1), torch.ones(10), atol=1e-5)
    upper = torch.cat([train_patterns, torch.zeros_like(train_patterns)], 1)
    lower = torch.cat([torch.zeros_like(train_patterns), train_patterns], 1)
    assert (WORLD.positions() @ torch.cat([upper, lower]).T).abs().max() == 0
    with pytest.raises(ValueError, match="no room"):
        World(dim=21).positions()


def test_prompts_have_the_papers_columns() -> None:
    made = training_prompts(WORLD, torch.tensor([0.4]), 3000, 7, torch.Generator().manual_seed(0))
    assert made.columns.shape == (1, 3000, 8 * 2, 60)
    step = made.query[0, :, 20:22].argmax(-1)  # the position that is added to the query
    assert torch.equal(made.valid.sum(-1)[0], 7 * 2 + step)  # l K + k - 1 columns are attended to
    weights = attention(initial_parameters(WORLD, 0.2, [1]), made.columns, made.query, made.valid)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 3000)) and (weights[~made.valid] == 0).all()
    assert abs(made.same_pattern[0, :, :14].float().mean().item() - 0.4) < 0.02
    assert torch.allclose(made.label.norm(dim=-1), torch.ones(1, 3000))


def test_the_zero_model_has_loss_one_half() -> None:
    start = initial_parameters(WORLD, 0.2, [1], deviation=0.0)
    made = training_prompts(WORLD, torch.tensor([0.4]), 50, 5, torch.Generator().manual_seed(0))
    out = forward(start, made.columns, made.query, made.valid)
    assert torch.allclose(0.5 * (made.label - out).square().sum(-1), torch.full((1, 50), 0.5))


def test_step_probabilities() -> None:
    p = Noise(tau=0.49, rho=0.8).step_probabilities(2, 10)
    assert torch.allclose(p[:2], torch.tensor([0.7, 0.14])) and abs(p.sum().item() - 1) < 1e-6
    capped = Noise(tau=0.7, rho=0.5).step_probabilities(2, 10)
    assert capped[1] == pytest.approx(1 - 0.7**0.5) and capped[2:].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("alpha", "at_10", "at_20"), [(0.4, 0.141, 0.045), (0.6, 0.078, 0.017), (0.8, 0.045, 0.007), (1.0, 0.027, 0.003)]
)
def test_majority_votes_have_the_measured_error(alpha: float, at_10: float, at_20: float) -> None:
    for examples, expected in ((10, at_10), (20, at_20)):
        generator = torch.Generator().manual_seed(3)
        test = draw_test_set(WORLD, Noise(), PATTERNS, torch.tensor([alpha]), 20_000, examples, generator)
        found = chain_error(majority_vote(test), test).item()
        assert abs(found - expected) < 0.25 * expected + 0.002


def test_training_ends_where_the_paper_says(trained: Trained) -> None:
    parameters, steps, groups = trained
    made = training_prompts(WORLD, torch.tensor([0.4]), 500, 20, torch.Generator().manual_seed(9))
    both, pattern, step, neither = attention_groups(parameters, made)[:, 0].tolist()
    assert both > 0.8 and pattern < 0.02 and neither < 0.02 and abs(both + pattern + step + neither - 1) < 1e-4
    loss = 0.5 * (made.label - forward(parameters, made.columns, made.query, made.valid)).square().sum(-1).mean()
    assert loss < 0.01
    # Two stages: the step is learned before the pattern.
    other_step = next(s for s, g in zip(steps, groups, strict=True) if g[1] + g[3] < 0.05)
    same_both = next(s for s, g in zip(steps, groups, strict=True) if g[0] > 0.8)
    assert other_step < 0.5 * same_both


def test_error_falls_with_examples_and_with_better_examples(trained: Trained) -> None:
    parameters = trained[0]
    by_length = [errors(parameters, 0.8, Noise(), n)[0] for n in (5, 10, 20, 40)]
    assert by_length == sorted(by_length, reverse=True) and by_length[-1] < 0.01
    slack = 0.01  # about a standard error
    for grid in (
        [errors(parameters, alpha, Noise(), 10)[0] for alpha in (0.4, 0.6, 0.8, 1.0)],
        [errors(parameters, 0.8, Noise(tau=tau), 10)[0] for tau in (0.4, 0.5, 0.6, 0.7)],
        [errors(parameters, 0.8, Noise(rho=rho), 10)[0] for rho in (0.5, 0.6, 0.7, 0.8)],
    ):
        assert all(later <= earlier + slack for earlier, later in itertools.pairwise(grid))
    assert errors(parameters, 0.8, Noise(), 40)[1] < 0.05  # in-context learning, where its condition holds
