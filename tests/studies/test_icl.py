"""The checks of Li et al. 2024 (arXiv 2402.15607) on a small and seeded scale."""

from __future__ import annotations

import math

import pytest
import torch

from asrkit.studies.fits import first_below
from asrkit.studies.icl import (
    Prompts,
    World,
    draw_prompts,
    forward,
    initial_parameters,
    measure,
    neuron_directions,
    pruned,
    train,
    training_tasks,
    unseen_tasks,
)
from asrkit.studies.one_layer import Tensors, attention

WORLD = World()


def prompts(runs: int = 1, alpha: float = 0.8, batch: int = 2000, length: int = 20, seed: int = 0) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.full((runs,), alpha)
    return draw_prompts(
        WORLD, WORLD.relevant_patterns(), unseen_tasks(WORLD.relevant), shares, batch, length, generator
    )


@pytest.fixture(scope="module")
def trained() -> Tensors:
    """One seed, 300 iterations."""
    generator = torch.Generator().manual_seed(1)
    patterns, tasks, shares = WORLD.relevant_patterns(), training_tasks(WORLD.relevant), torch.tensor([0.8])
    return train(
        initial_parameters(WORLD, 100, 0.2, [1]),
        lambda: draw_prompts(WORLD, patterns, tasks, shares, 256, 20, generator),
        300,
        0.1,
    )


def test_prompts_are_the_papers() -> None:
    made = prompts(batch=5000)
    width = WORLD.input_dim
    assert made.context.shape == (1, 5000, 20, 2 * width) and made.query.shape == (1, 5000, 2 * width)
    assert torch.count_nonzero(made.query[..., width:]) == 0
    y = made.context[..., width:]
    assert torch.equal(y.abs().sum(-1), torch.ones(1, 5000, 20)) and torch.equal(
        y[..., 0].abs(), torch.ones(1, 5000, 20)
    )


def test_pattern_frequencies_and_random_labels() -> None:
    generator = torch.Generator().manual_seed(3)
    made = draw_prompts(WORLD, WORLD.relevant_patterns(), [(0, 1)], torch.tensor([0.8]), 5000, 20, generator)
    which = made.context[0, ..., : WORLD.relevant].argmax(-1).flatten()
    label = made.context[0, ..., WORLD.input_dim].flatten()
    shares = torch.bincount(which, minlength=6) / len(which)
    assert torch.allclose(shares, torch.tensor([0.4, 0.4, 0.05, 0.05, 0.05, 0.05]), atol=0.005)
    assert (label[which == 0] == 1).all() and (label[which == 1] == -1).all()
    assert label[which > 1].mean().abs() < 0.03
    asked = made.query[0, :, : WORLD.relevant].argmax(-1)
    assert torch.equal(made.label[0], torch.where(asked == 0, 1.0, -1.0))


def test_out_of_domain_patterns_are_orthogonal_and_as_long() -> None:
    for total in (0.0, 0.5, 1.0, 1.1, math.sqrt(2)):
        made = WORLD.out_of_domain_patterns(total)
        assert torch.allclose(made @ made.T, 9 * torch.eye(3), atol=1e-5)
        coefficients = made[:, : WORLD.relevant] / WORLD.beta
        assert torch.allclose(coefficients.sum(1), torch.full((3,), total), atol=1e-6)
    with pytest.raises(ValueError, match="sqrt 2"):
        WORLD.out_of_domain_patterns(1.5)


def test_the_layer_is_the_formula() -> None:
    parameters = initial_parameters(WORLD, 7, 0.2, [1, 2], deviation=0.5)
    made = prompts(runs=2, batch=3, length=4)
    out, weights = forward(parameters, made), attention(parameters, made.context, made.query)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3)) and weights.shape == (2, 3, 4)
    for s in range(2):
        p = {name: value[s] for name, value in parameters.items()}
        for b in range(3):
            columns, query = made.context[s, b], made.query[s, b]
            scores = torch.stack([(p["key"] @ c) @ (p["query"] @ query) for c in columns])
            summed = sum(w * (p["value"] @ c) for w, c in zip(torch.softmax(scores, 0), columns, strict=True))
            assert torch.allclose(out[s, b], p["sign"] @ torch.relu(p["out"] @ summed), atol=1e-5)


def test_the_loss_begins_at_one() -> None:
    start = measure(initial_parameters(WORLD, 100, 0.2, [1]), prompts())
    assert abs(start.hinge.item() - 1) < 1e-3 and abs(start.error.item() - 0.5) < 0.05


def test_runs_do_not_see_each_other() -> None:
    made = prompts(runs=2, batch=16)
    both = train(initial_parameters(WORLD, 5, 0.2, [1, 2]), lambda: made, 3, 0.1)
    alone = Prompts(made.context[1:], made.query[1:], made.label[1:], made.same_pattern[1:])
    single = train(initial_parameters(WORLD, 5, 0.2, [2]), lambda: alone, 3, 0.1)
    assert all(torch.allclose(both[name][1:], single[name], atol=1e-6) for name in single)


def test_training_reaches_what_was_measured(trained: Tensors) -> None:
    found = measure(trained, prompts())
    assert found.error.item() < 0.005 and found.hinge.item() < 0.02 and found.same_pattern.item() > 0.85
    by_length = [measure(trained, prompts(length=n)).error.item() for n in (4, 8, 16)]
    assert by_length[0] > by_length[1] > by_length[2]
    by_alpha = [measure(trained, prompts(alpha=alpha, length=6)).error.item() for alpha in (0.6, 0.8, 1.0)]
    assert by_alpha[0] > by_alpha[1] > by_alpha[2]


def test_neurons_point_where_the_paper_says(trained: Tensors) -> None:
    norms, feature, label = neuron_directions(trained, WORLD)
    large = norms > norms.median()
    assert feature[large].mean() > 0.9 and label[large].mean() > 0.95


def test_out_of_domain_margin_grows_with_the_coefficients(trained: Tensors) -> None:
    def hinge(total: float) -> float:
        generator = torch.Generator().manual_seed(5)
        patterns, tasks = WORLD.out_of_domain_patterns(total), [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)]
        return measure(
            trained, draw_prompts(WORLD, patterns, tasks, torch.tensor([0.8]), 2000, 20, generator)
        ).hinge.item()

    assert hinge(0.5) > 3 * hinge(1.0)


def test_small_neurons_are_free_and_large_ones_are_not(trained: Tensors) -> None:
    made = prompts()
    whole = measure(trained, made).hinge.item()
    assert measure(pruned(trained, 0.1, "smallest"), made).hinge.item() <= 1.3 * whole
    rising = [measure(pruned(trained, share, "largest"), made).hinge.item() for share in (0.1, 0.2, 0.3)]
    assert whole < rising[0] < rising[1] < rising[2]
    assert int((pruned(trained, 0.3, "random")["out"].norm(dim=2) == 0).sum()) == 30
    with pytest.raises(ValueError, match="smallest, largest or random"):
        pruned(trained, 0.1, "heaviest")


def test_first_step_below_a_threshold() -> None:
    history = torch.tensor([[1.0, 1.0], [0.05, 0.5], [0.2, 0.3]])
    assert first_below(history, 0.1).tolist() == [1, -1]
