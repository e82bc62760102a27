"""In-context learning in one transformer layer: data, model and training.

Li et al. 2024, "How do nonlinear transformers learn and generalize in in-context learning?" (ICML, arXiv
2402.15607). A prompt holds l pairs of an input and its label's embedding, and a query; an input is a relevant
pattern μ_j plus a little of an irrelevant one, κ ν_k. The task (a, b) labels μ_a with +1, μ_b with -1 and any other
pattern at random. The layer

    F = aᵀ ReLU(W_O Σ_i W_V p_i · softmax_i((W_K p_i)ᵀ W_Q p_query))

is trained with hinge loss and SGD; a is fixed.

Shape letters: S runs trained at once (seeds and settings), B prompts, l context pairs, D width of a column (input
and label embedding), M neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from asrkit.randomness import seeded_generator
from asrkit.studies.one_layer import Tensors, attention, sgd


@dataclass(frozen=True)
class World:
    """The patterns: orthogonal axes of length ``beta``."""

    relevant: int = 6
    """M_1, in-domain-relevant patterns."""
    irrelevant: int = 24
    """M_2."""
    beta: float = 3.0
    noise: float = 0.5
    """κ is uniform in ± this."""

    @property
    def input_dim(self) -> int:
        """d_X; the label embedding is as wide."""
        return self.relevant + self.irrelevant

    def relevant_patterns(self) -> torch.Tensor:
        """(M_1, d_X)."""
        return self.beta * torch.eye(self.input_dim)[: self.relevant]

    def irrelevant_patterns(self) -> torch.Tensor:
        """(M_2, d_X)."""
        return self.beta * torch.eye(self.input_dim)[self.relevant :]

    def out_of_domain_patterns(self, coefficient_sum: float) -> torch.Tensor:
        """(M_1 / 2, d_X) patterns of length ``beta``, orthogonal to each other, each a mixture of two relevant ones.

        The mixture's coefficients satisfy c1 + c2 = S_1 and c1² + c2² = 1, so that 0 <= S_1 <= √2.

        Raises:
            ValueError: no such coefficients.
        """
        if not 0 <= coefficient_sum <= math.sqrt(2) + 1e-12:
            raise ValueError(f"the sum of the coefficients must be in [0, sqrt 2], got {coefficient_sum}")
        first = (coefficient_sum + math.sqrt(max(0.0, 2 - coefficient_sum**2))) / 2
        pairs = self.relevant_patterns()[: 2 * (self.relevant // 2)].view(-1, 2, self.input_dim)
        return first * pairs[:, 0] + (coefficient_sum - first) * pairs[:, 1]

    def label_embedding(self) -> torch.Tensor:
        """q (d_X,), of length 1."""
        return torch.eye(self.input_dim)[0]


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts for each run."""

    context: torch.Tensor
    """(S, B, l, D) columns (x_i ; y_i)."""
    query: torch.Tensor
    """(S, B, D) column (x_query ; 0)."""
    label: torch.Tensor
    """(S, B) ±1 of the query."""
    same_pattern: torch.Tensor
    """(S, B, l) whether a context shares the query's pattern."""


def training_tasks(relevant: int) -> list[tuple[int, int]]:
    """The cycle (j, j + 1): each pattern is positive once and negative once."""
    return [(j, (j + 1) % relevant) for j in range(relevant)]


def all_tasks(patterns: int) -> list[tuple[int, int]]:
    """All ordered pairs of patterns."""
    return [(a, b) for a in range(patterns) for b in range(patterns) if a != b]


def unseen_tasks(relevant: int) -> list[tuple[int, int]]:
    """All ordered pairs not trained on."""
    trained = training_tasks(relevant)
    return [task for task in all_tasks(relevant) if task not in trained]


def draw_prompts(
    world: World,
    patterns: torch.Tensor,
    tasks: Sequence[tuple[int, int]],
    alpha: torch.Tensor,
    batch: int,
    length: int,
    generator: torch.Generator,
) -> Prompts:
    """Prompts whose tasks and contexts are drawn at random.

    Args:
        world: for the irrelevant patterns, the noise and the label embedding.
        patterns: (P, d_X) relevant patterns, in or out of domain.
        tasks: pairs of pattern numbers.
        alpha: (S,) the share of contexts with one of the task's two patterns, for each run.
        batch: B.
        length: l.
        generator: source of all random decisions.
    """
    runs, shape = len(alpha), (len(alpha), batch, length)
    numbers = torch.randint(len(tasks), (runs, batch), generator=generator)
    pair = torch.tensor(tasks)[numbers]  # (S, B, 2)
    sign = torch.randint(2, (runs, batch), generator=generator)  # 0: the query has μ_a
    query_pattern = pair.gather(2, sign[..., None])[..., 0]
    # A pattern other than the task's two: a number below P - 2, moved past both.
    low, high = pair.min(2).values[..., None], pair.max(2).values[..., None]
    other = torch.randint(max(1, len(patterns) - 2), shape, generator=generator)
    other = other + (other >= low)
    other = other + (other >= high)
    u = torch.rand(shape, generator=generator)
    share = alpha[:, None, None]
    which = torch.where(u < share / 2, pair[..., :1], torch.where(u < share, pair[..., 1:], other))
    decisive = u < share
    random_label = 2.0 * torch.randint(2, shape, generator=generator) - 1
    label = torch.where(decisive, torch.where(which == pair[..., :1], 1.0, -1.0), random_label)
    x = _inputs(world, patterns, which, generator)
    y = label[..., None] * world.label_embedding()
    x_query = _inputs(world, patterns, query_pattern, generator)
    return Prompts(
        torch.cat([x, y], dim=-1),
        torch.cat([x_query, torch.zeros_like(x_query)], dim=-1),
        1.0 - 2.0 * sign,
        which == query_pattern[..., None],
    )


def _inputs(world: World, patterns: torch.Tensor, which: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """μ + κ ν with ν and κ at random, for pattern numbers of any shape."""
    noise = torch.randint(world.irrelevant, which.shape, generator=generator)
    kappa = world.noise * (2 * torch.rand(which.shape, generator=generator) - 1)
    return patterns[which] + kappa[..., None] * world.irrelevant_patterns()[noise]


def initial_parameters(
    world: World, neurons: int, delta: float, seeds: Sequence[int], deviation: float = 0.01
) -> Tensors:
    """Parameters of S runs, one per seed.

    ``query``, ``key`` and ``value`` (S, D, D) are δ times the identity, the first two only on the input part;
    ``out`` (S, M, D) is Gaussian; ``sign`` (S, M), not trained, is ±1 / √M.
    """
    width = 2 * world.input_dim
    on_input = torch.diag((torch.arange(width) < world.input_dim).float())
    runs = len(seeds)
    drawn, signs = [], []
    for seed in seeds:
        generator = seeded_generator(seed)
        drawn.append(deviation * torch.randn(neurons, width, generator=generator))
        signs.append((2.0 * torch.randint(2, (neurons,), generator=generator) - 1) / math.sqrt(neurons))
    return {
        "query": (delta * on_input).repeat(runs, 1, 1),
        "key": (delta * on_input).repeat(runs, 1, 1),
        "value": (delta * torch.eye(width)).repeat(runs, 1, 1),
        "out": torch.stack(drawn),
        "sign": torch.stack(signs),
    }


def forward(parameters: Tensors, prompts: Prompts) -> torch.Tensor:
    """F (S, B)."""
    return _neurons(parameters, prompts, attention(parameters, prompts.context, prompts.query))


def _neurons(parameters: Tensors, prompts: Prompts, weights: torch.Tensor) -> torch.Tensor:
    """The layer after its attention weights (S, B, l)."""
    summed = torch.einsum("sbl,sbld->sbd", weights, prompts.context)
    value = torch.einsum("sed,sbd->sbe", parameters["value"], summed)
    hidden = torch.relu(torch.einsum("smd,sbd->sbm", parameters["out"], value))
    return torch.einsum("sm,sbm->sb", parameters["sign"], hidden)


@dataclass(frozen=True)
class Measured:
    """Measurements of each run on a batch, (S,) each."""

    hinge: torch.Tensor
    error: torch.Tensor
    """Share of wrong signs; a zero output is half wrong."""
    same_pattern: torch.Tensor
    """Attention on the contexts that share the query's pattern."""


@torch.no_grad()
def measure(parameters: Tensors, prompts: Prompts) -> Measured:
    """Hinge loss, error and attention mass of each run."""
    weights = attention(parameters, prompts.context, prompts.query)
    out = _neurons(parameters, prompts, weights)
    right = torch.sign(out) * prompts.label
    mass = (weights * prompts.same_pattern).sum(-1)
    return Measured(torch.relu(1 - prompts.label * out).mean(1), ((1 - right) / 2).mean(1), mass.mean(1))


def train(
    parameters: Tensors,
    draw: Callable[[], Prompts],
    steps: int,
    lr: float,
    watch: Callable[[int, Tensors], None] | None = None,
) -> Tensors:
    """SGD on the hinge loss; each run has its own prompts and its own gradient.

    Args:
        parameters: from :func:`initial_parameters`.
        draw: returns a fresh batch.
        steps: updates.
        lr: η.
        watch: called before each update and after the last one.
    """

    def losses(now: Tensors) -> torch.Tensor:
        prompts = draw()
        return torch.relu(1 - prompts.label * forward(now, prompts)).mean(1)

    return sgd(parameters, losses, steps, lr, watch, fixed=("sign",))


def pruned(parameters: Tensors, share: float, which: str, generator: torch.Generator | None = None) -> Tensors:
    """Parameters without a share of the rows of W_O: the ``smallest``, the ``largest`` or ``random`` ones.

    Raises:
        ValueError: another word.
    """
    norms = parameters["out"].norm(dim=2)  # (S, M)
    if which == "random":
        norms = torch.rand(norms.shape, generator=generator)
    elif which == "largest":
        norms = -norms
    elif which != "smallest":
        raise ValueError(f"which must be smallest, largest or random, got {which}")
    number = round(share * norms.shape[1])
    keep = torch.ones_like(norms).scatter(1, norms.argsort(1)[:, :number], 0.0)
    return parameters | {"out": parameters["out"] * keep[..., None]}


def neuron_directions(parameters: Tensors, world: World) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row of W_O W_V: norm, cosine of its input part with the mean pattern, of its label part with ±q.

    The sign of q is that of the row's entry in a. Returns three (S, M) tensors.
    """
    rows = parameters["out"] @ parameters["value"]  # (S, M, D)
    feature, label = rows.split(world.input_dim, dim=2)
    mean = world.relevant_patterns().mean(0)
    q = world.label_embedding() * torch.sign(parameters["sign"])[..., None]
    return (
        parameters["out"].norm(dim=2),
        torch.cosine_similarity(feature, mean.expand_as(feature), dim=2),
        torch.cosine_similarity(label, q, dim=2),
    )
