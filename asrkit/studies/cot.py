"""Chain of thought in one attention layer: tasks, prompts, model, training and inference.

Li et al. 2025, "Training nonlinear transformers for chain-of-thought inference: a theoretical generalization
analysis" (ICLR, arXiv 2410.02167). A task is K steps z_k = f_k(z_{k-1}) over orthonormal patterns. An example is K
columns (y_{k-1} ; y_k), the query's block k columns whose last is (z_{k-1} ; 0), and every column has its step's
positional vector added. The layer

    F = Σ_i W_V p_i · softmax_i((W_K p_i)ᵀ W_Q p_query)

is trained on the label z_k with squared loss and SGD. Test examples take wrong steps by a transition matrix A_k.

Shape letters: S runs at once, B prompts, l examples, K steps, N columns of a context, D = 2d width of a column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from asrkit.randomness import seeded_generator
from asrkit.studies.one_layer import Tensors, attention, sgd


@dataclass(frozen=True)
class World:
    """Patterns and positional vectors."""

    dim: int = 30
    """d."""
    patterns: int = 20
    """M, orthonormal training-relevant patterns."""
    test_patterns: int = 10
    """M', orthonormal testing-relevant patterns in the span of the others."""
    steps: int = 2
    """K."""

    def training_patterns(self) -> torch.Tensor:
        """(M, d)."""
        return torch.eye(self.dim)[: self.patterns]

    def testing_patterns(self, generator: torch.Generator) -> torch.Tensor:
        """(M', d): random rotations of the training patterns."""
        basis, _ = torch.linalg.qr(torch.randn(self.patterns, self.patterns, generator=generator))
        result: torch.Tensor = basis[:, : self.test_patterns].T @ self.training_patterns()
        return result

    def positions(self) -> torch.Tensor:
        """(K, 2d): unit vectors in the upper half, orthogonal to every pattern.

        Raises:
            ValueError: the patterns leave no room for them.
        """
        if self.patterns + self.steps > self.dim:
            raise ValueError(f"d = {self.dim} has no room for {self.patterns} patterns and {self.steps} positions")
        upper = torch.eye(self.dim)[self.patterns : self.patterns + self.steps]
        return torch.cat([upper, torch.zeros_like(upper)], dim=1)


@dataclass(frozen=True)
class Noise:
    """How test examples go wrong: one step is right with p = τ^{1/K}, the strongest wrong one has (1 - ρ) p.

    If that sums to more than 1, the strongest wrong step gets the rest.
    """

    tau: float = 0.5
    """Probability of the right trajectory, τ^f."""
    rho: float = 0.8
    """Primacy, ρ^f = 1 - A2 / A1."""
    input_noise: float = 0.2
    """Length of the noise on every token."""

    def step_probabilities(self, steps: int, patterns: int) -> torch.Tensor:
        """(M',) probabilities of the right step, of the strongest wrong one, and of each of the others."""
        right = self.tau ** (1 / steps)
        second = min((1 - self.rho) * right, 1 - right)
        rest = (1 - right - second) / max(1, patterns - 2)
        return torch.tensor([right, second, *[rest] * (patterns - 2)])


@dataclass(frozen=True)
class Prompts:
    """Contexts with their queries."""

    columns: torch.Tensor
    """(S, B, N, D) with positions added."""
    query: torch.Tensor
    """(S, B, D) the last column, with its position."""
    label: torch.Tensor
    """(S, B, d)."""
    same_step: torch.Tensor
    """(S, B, N) whether a column has the query's step."""
    same_pattern: torch.Tensor
    """(S, B, N) whether its example begins with the query's pattern."""
    valid: torch.Tensor
    """(S, B, N) whether the column exists."""


def random_tasks(shape: Sequence[int], steps: int, patterns: int, generator: torch.Generator) -> torch.Tensor:
    """f_1 … f_K as random permutations: (*shape, K, patterns), entry j is f_k(j)."""
    return torch.rand((*shape, steps, patterns), generator=generator).argsort(-1)


def first_patterns(
    query_pattern: torch.Tensor, alpha: torch.Tensor, examples: int, patterns: int, generator: torch.Generator
) -> torch.Tensor:
    """(S, B, l) patterns that examples begin with: the query's (S, B) with probability α (S,), else another."""
    shape = (*query_pattern.shape, examples)
    other = (query_pattern[..., None] + torch.randint(1, patterns, shape, generator=generator)) % patterns
    same = torch.rand(shape, generator=generator) < alpha[:, None, None]
    return torch.where(same, query_pattern[..., None].expand(shape), other)


def trajectories(tasks: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The right steps of tasks (S, B, K, M) from start (S, B, l): (S, B, l, K + 1)."""
    states = [start]
    for k in range(tasks.shape[2]):
        states.append(tasks[:, :, k].gather(2, states[-1]))
    return torch.stack(states, dim=-1)


def noisy_trajectories(
    tasks: torch.Tensor, start: torch.Tensor, probabilities: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Steps that go wrong: the right one, the strongest wrong one (the next pattern after it) or any other."""
    patterns, states = tasks.shape[3], [start]
    for k in range(tasks.shape[2]):
        right = tasks[:, :, k].gather(2, states[-1])
        drawn = torch.multinomial(probabilities, right.numel(), replacement=True, generator=generator)
        states.append((right + drawn.view(right.shape)) % patterns)
    return torch.stack(states, dim=-1)


def training_prompts(
    world: World, alpha: torch.Tensor, batch: int, examples: int, generator: torch.Generator
) -> Prompts:
    """Prompts without noise, each about its own step.

    Args:
        world: patterns and steps.
        alpha: (S,) share of examples that begin as the query does, for each run.
        batch: B.
        examples: l.
        generator: source of all random decisions.
    """
    runs, steps = len(alpha), world.steps
    patterns = world.training_patterns()
    tasks = random_tasks((runs, batch), steps, world.patterns, generator)
    query_pattern = torch.randint(world.patterns, (runs, batch), generator=generator)
    start = first_patterns(query_pattern, alpha, examples, world.patterns, generator)
    states = trajectories(tasks, start)  # (S, B, l, K + 1)
    own = trajectories(tasks, query_pattern[..., None])[:, :, 0]  # (S, B, K + 1)
    step = torch.randint(steps, (runs, batch), generator=generator)  # k - 1
    blocks = torch.cat([states, own[:, :, None]], dim=2)  # the query's block is one more example, cut off at its step
    columns = torch.cat([patterns[blocks[..., :-1]], patterns[blocks[..., 1:]]], dim=-1) + world.positions()
    number = torch.arange(steps)
    valid = torch.ones((*blocks.shape[:-1], steps), dtype=torch.bool)
    valid[:, :, -1] = number < step[..., None]
    z = own.gather(2, step[..., None])[..., 0]
    label = patterns[own.gather(2, step[..., None] + 1)[..., 0]]
    query = unanswered(patterns[z], world.positions()[step])
    same_step = (number == step[..., None])[:, :, None].expand(valid.shape)
    begins = torch.cat([start, query_pattern[..., None]], dim=2)
    same_pattern = (begins == query_pattern[..., None])[..., None].expand(valid.shape)
    return Prompts(
        columns.flatten(2, 3), query, label, same_step.flatten(2, 3), same_pattern.flatten(2, 3), valid.flatten(2, 3)
    )


def unanswered(z: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The query's last column (z ; 0), (S, B, D), with its step's positional vector."""
    return torch.cat([z, torch.zeros_like(z)], dim=-1) + position


def initial_parameters(world: World, delta: float, seeds: Sequence[int], deviation: float = 0.01) -> Tensors:
    """``query`` and ``key`` (S, D, D) are δ times the identity, ``value`` (S, d, D) reads only the lower half."""
    width, values = 2 * world.dim, []
    for seed in seeds:
        generator = seeded_generator(seed)
        lower = deviation * torch.randn(world.dim, world.dim, generator=generator)
        values.append(torch.cat([torch.zeros_like(lower), lower], dim=1))
    same = (delta * torch.eye(width)).repeat(len(seeds), 1, 1)
    return {"query": same, "key": same.clone(), "value": torch.stack(values)}


def forward(
    parameters: Tensors, columns: torch.Tensor, query: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """F (S, B, d)."""
    weights = attention(parameters, columns, query, valid)
    return torch.einsum("sed,sbd->sbe", parameters["value"], torch.einsum("sbn,sbnd->sbd", weights, columns))


def train(
    parameters: Tensors,
    draw: Callable[[], Prompts],
    steps: int,
    lr: float,
    watch: Callable[[int, Tensors], None] | None = None,
) -> Tensors:
    """SGD on ½ ||z - F||²; each run has its own prompts and its own gradient. ``watch`` sees every step."""

    def losses(now: Tensors) -> torch.Tensor:
        return squared_error(now, draw())

    return sgd(parameters, losses, steps, lr, watch)


def squared_error(parameters: Tensors, prompts: Prompts) -> torch.Tensor:
    """Mean ½ ||z - F||² of each run, (S,)."""
    out = forward(parameters, prompts.columns, prompts.query, prompts.valid)
    return 0.5 * (prompts.label - out).square().sum(-1).mean(1)


@torch.no_grad()
def attention_groups(parameters: Tensors, prompts: Prompts) -> torch.Tensor:
    """(4, S) attention on columns of the same or another step, in examples of the same or another pattern.

    In the order same pattern and step, same pattern, same step, neither.
    """
    weights = attention(parameters, prompts.columns, prompts.query, prompts.valid)
    groups = [
        (weights * (prompts.same_pattern == pattern) * (prompts.same_step == step)).sum(-1).mean(1)
        for pattern, step in ((True, True), (True, False), (False, True), (False, False))
    ]
    return torch.stack(groups)


@dataclass(frozen=True)
class TestSet:
    """Noisy examples, shared by chain of thought and by in-context learning."""

    patterns: torch.Tensor
    """(M', d)."""
    states: torch.Tensor
    """(S, B, l, K + 1) what the examples did."""
    tokens: torch.Tensor
    """(S, B, l, K + 1, d) the same with noise."""
    truth: torch.Tensor
    """(S, B, K + 1) what the query should do."""
    query: torch.Tensor
    """(S, B, d) the query's first token, with noise."""


def draw_test_set(
    world: World,
    noise: Noise,
    patterns: torch.Tensor,
    alpha: torch.Tensor,
    batch: int,
    examples: int,
    generator: torch.Generator,
) -> TestSet:
    """Test prompts over testing-relevant patterns (M', d) whose examples take wrong steps."""
    tasks = random_tasks((len(alpha), batch), world.steps, world.test_patterns, generator)
    query_pattern = torch.randint(world.test_patterns, (len(alpha), batch), generator=generator)
    start = first_patterns(query_pattern, alpha, examples, world.test_patterns, generator)
    probabilities = noise.step_probabilities(world.steps, world.test_patterns)
    states = noisy_trajectories(tasks, start, probabilities, generator)
    return with_tokens(noise, patterns, states, trajectories(tasks, query_pattern[..., None])[:, :, 0], generator)


def with_tokens(
    noise: Noise, patterns: torch.Tensor, states: torch.Tensor, truth: torch.Tensor, generator: torch.Generator
) -> TestSet:
    """States as noisy tokens over testing-relevant patterns (M', d)."""

    def noisy(which: torch.Tensor) -> torch.Tensor:
        random = torch.randn((*which.shape, patterns.shape[1]), generator=generator)
        result: torch.Tensor = patterns[which] + noise.input_noise * random / random.norm(dim=-1, keepdim=True)
        return result

    return TestSet(patterns, states, noisy(states), truth, noisy(truth[..., 0]))


@torch.no_grad()
def chain_of_thought(parameters: Tensors, world: World, test: TestSet) -> torch.Tensor:
    """Greedy answers (S, B, K), step by step, each appended to the prompt before the next."""
    columns = torch.cat([test.tokens[..., :-1, :], test.tokens[..., 1:, :]], dim=-1) + world.positions()
    columns = columns.flatten(2, 3)
    z, answers = test.query, []
    for k in range(world.steps):
        answer = nearest(forward(parameters, columns, unanswered(z, world.positions()[k])), test.patterns)
        after = test.patterns[answer]
        # The query's column, now with its answer, becomes part of the context.
        columns = torch.cat([columns, (torch.cat([z, after], dim=-1) + world.positions()[k])[:, :, None]], dim=2)
        z = after
        answers.append(answer)
    return torch.stack(answers, dim=-1)


@torch.no_grad()
def in_context_learning(parameters: Tensors, world: World, test: TestSet) -> torch.Tensor:
    """The final answer (S, B) from examples that show input and final label, with zeros for the steps between."""
    shown = torch.cat([test.tokens[..., 0, :], test.tokens[..., -1, :]], dim=-1)  # (S, B, l, D)
    columns = torch.zeros(*shown.shape[:3], world.steps, shown.shape[-1])
    columns[..., 0, :] = shown
    columns = (columns + world.positions()).flatten(2, 3)
    return nearest(forward(parameters, columns, unanswered(test.query, world.positions()[0])), test.patterns)


def nearest(out: torch.Tensor, patterns: torch.Tensor) -> torch.Tensor:
    """Numbers (S, B) of the patterns (M', d) nearest to outputs (S, B, d)."""
    return (out @ patterns.T - 0.5 * patterns.square().sum(-1)).argmax(-1)


def chain_error(answers: torch.Tensor, test: TestSet) -> torch.Tensor:
    """(S,) share of wrong steps."""
    return (answers != test.truth[..., 1:]).float().mean((1, 2))


def final_error(answers: torch.Tensor, test: TestSet) -> torch.Tensor:
    """(S,) share of wrong final answers (S, B)."""
    return (answers != test.truth[..., -1]).float().mean(1)


def majority_vote(test: TestSet) -> torch.Tensor:
    """Answers (S, B, K) of a layer whose attention is all on the same step and pattern: what theory predicts."""
    z, answers, count = test.truth[..., 0], [], test.patterns.shape[0]
    for k in range(test.states.shape[-1] - 1):
        before, after = test.states[..., k], test.states[..., k + 1]
        votes = torch.zeros(*z.shape, count).scatter_add_(2, after, (before == z[..., None]).float())
        z = votes.argmax(-1)
        answers.append(z)
    return torch.stack(answers, dim=-1)


def label_vote(test: TestSet) -> torch.Tensor:
    """Final answers (S, B) by the most frequent final label of examples that begin as the query does: what theory
    predicts for in-context learning."""
    begins = test.states[..., 0] == test.truth[..., :1]  # (S, B, l)
    votes = torch.zeros(*begins.shape[:2], test.patterns.shape[0])
    return votes.scatter_add_(2, test.states[..., -1], begins.float()).argmax(-1)


def trajectory_probability(matrices: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float, float, torch.Tensor]:
    """What a task's transition matrices A_1 … A_K (M', M') imply.

    Returns:
        B = A_1 … A_K, τ^f (the least probable right trajectory), τ_o^f (the least probable most probable label), and
        for each row whether the right final label is the most probable one (condition 1).
    """
    product = matrices[0]
    for matrix in matrices[1:]:
        product = product @ matrix
    state = torch.arange(len(product))
    probability = torch.ones(len(product), dtype=product.dtype)
    for matrix in matrices:
        best = matrix[state].max(dim=1)
        probability, state = probability * best.values, best.indices
    return product, probability.min().item(), product.max(dim=1).values.min().item(), product.argmax(dim=1) == state
