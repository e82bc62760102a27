"""Context-aware search: the checks of a world of vectors, where everything is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from asrkit.retrieval.metrics import gold_rank, recall_at
from asrkit.retrieval.pcas import Retrieved, System, Weights, choose_contexts, retrieve
from asrkit.retrieval.questions import Question, with_others_contexts

QUERY_ONLY = System(Weights(query=1.0), contexts="none")
JOINT = System(Weights(joint=1.0))
LATE = System(Weights(query=1.0, context=1.0))
JOINED = System(Weights(joint=1.0), contexts="joined")
PIPELINE = System(Weights(joint=1.0), contexts="nearest")
ORACLE = System(Weights(joint=1.0), contexts="gold")


class VectorWorld:
    """A retriever whose texts are names of vectors; joining texts adds their vectors, contexts at half weight.

    60 intents, 12 kinds of attributes with 8 values; a passage is intent + value + kind + noise, a query intent + kind,
    a context value + kind. Every (intent, value) has two passages.
    """

    def __init__(self, questions: int = 400, contexts: int = 10, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
        dim, intents, kinds, values = 64, 60, 12, 8
        intent, kind = unit(rng.normal(size=(intents, dim))), unit(rng.normal(size=(kinds, dim)))
        value = unit(rng.normal(size=(kinds, values, dim)))
        of = np.arange(intents) % kinds
        gold = [(i, v) for i in range(intents) for v in range(values) for _ in range(2)]
        self.passages = unit(
            np.stack(
                [intent[i] + 0.6 * value[of[i], v] + 0.2 * kind[of[i]] + 0.06 * rng.normal(size=dim) for i, v in gold]
            )
        )
        self.num_passages = len(gold)
        self.vectors: dict[str, np.ndarray] = {}
        self.questions = []
        for n in range(questions):
            place = int(rng.integers(len(gold)))
            i, v = gold[place]
            self.vectors[f"q{n}"] = unit(intent[i] + 0.15 * kind[of[i]] + 0.08 * rng.normal(size=dim))
            pertinent, names = int(rng.integers(contexts)), []
            others = rng.permutation([k for k in range(kinds) if k != of[i]])
            for m in range(contexts):
                k, w = (of[i], v) if m == pertinent else (others[m], int(rng.integers(values)))
                names.append(f"q{n}c{m}")
                self.vectors[names[-1]] = unit(value[k, w] + 0.3 * kind[k] + 0.06 * rng.normal(size=dim))
            self.questions.append(Question(f"q{n}", tuple(names), place, pertinent))

    def vector(self, text: str) -> np.ndarray:
        first, *rest = text.split(" ")
        total = self.vectors[first] + 0.5 * sum((self.vectors[name] for name in rest), np.zeros(64))
        return total / np.linalg.norm(total)

    def search(self, texts: Sequence[str], depth: int) -> np.ndarray:
        scores = self.score(texts, np.arange(self.num_passages))
        return np.argsort(-scores, axis=1, kind="stable")[:, :depth]

    def score(self, texts: Sequence[str], passages: np.ndarray) -> np.ndarray:
        # Not a matrix product, whose last bit may depend on how many texts there are: tests compare exactly.
        return np.einsum("td,pd->tp", np.stack([self.vector(text) for text in texts]), self.passages[passages])

    def similarity(self, query: str, contexts: Sequence[str]) -> np.ndarray:
        return np.stack([self.vector(text) for text in contexts]) @ self.vector(query)


@pytest.fixture(scope="module")
def world() -> VectorWorld:
    return VectorWorld()


def same(first: Sequence[Retrieved], second: Sequence[Retrieved]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(np.array_equal(a.passages, b.passages) and np.array_equal(a.scores, b.scores) for a, b in pairs)


def recall(answers: Sequence[Retrieved], questions: Sequence[Question], k: int) -> float:
    ranks = [gold_rank(a.passages, a.scores, q.passage) for a, q in zip(answers, questions, strict=True)]
    return float(recall_at(np.array(ranks), k).mean())


def named(answers: Sequence[Retrieved], questions: Sequence[Question]) -> float:
    return float(np.mean([a.context == q.context for a, q in zip(answers, questions, strict=True)]))


@pytest.mark.parametrize("system", [JOINT, LATE, JOINED, PIPELINE, System(Weights(query=1, joint=1, selection=0.5))])
def test_without_contexts_all_are_query_only(world: VectorWorld, system: System) -> None:
    bare = [replace(q, contexts=(), context=None) for q in world.questions[:30]]
    base, found = retrieve(world, bare, QUERY_ONLY), retrieve(world, bare, system)
    assert all(np.array_equal(a.passages, b.passages) for a, b in zip(base, found, strict=True))
    assert all(answer.context is None for answer in found)


def test_weight_of_the_query_alone_is_query_only(world: VectorWorld) -> None:
    questions = world.questions[:30]
    assert same(retrieve(world, questions, QUERY_ONLY), retrieve(world, questions, System(Weights(query=1.0))))


@pytest.mark.parametrize("system", [JOINT, LATE, System(Weights(joint=1.0), aggregate="logsumexp"), PIPELINE])
def test_order_of_contexts_does_not_matter(world: VectorWorld, system: System) -> None:
    questions = world.questions[:30]
    order = np.random.default_rng(1).permutation(10)
    shuffled = [replace(q, contexts=tuple(q.contexts[i] for i in order)) for q in questions]
    found, again = retrieve(world, questions, system), retrieve(world, shuffled, system)
    for a, b in zip(found, again, strict=True):
        assert np.array_equal(a.passages, b.passages)
        assert np.allclose(a.scores, b.scores, atol=1e-12)
        assert a.context == order[b.context]


def test_a_context_twice(world: VectorWorld) -> None:
    """Nothing changes under max; the mean moves to that context."""
    questions = world.questions[:30]
    doubled = [replace(q, contexts=(*q.contexts, q.contexts[0])) for q in questions]
    assert same(retrieve(world, questions, JOINT), retrieve(world, doubled, JOINT))
    mean = System(Weights(joint=1.0), aggregate="mean")
    every = len(world.passages)
    once, twice = retrieve(world, questions, mean, every), retrieve(world, doubled, mean, every)
    for question, a, b in zip(questions, once, twice, strict=True):
        first = world.score([f"{question.query} {question.contexts[0]}"], np.arange(every))[0]
        before, after = np.empty(every), np.empty(every)
        before[a.passages], after[b.passages] = a.scores, b.scores
        assert np.allclose(after, (10 * before + first) / 11, atol=1e-12)


def test_one_context_is_plain_search(world: VectorWorld) -> None:
    questions = [replace(q, contexts=q.contexts[:1], context=None) for q in world.questions[:30]]
    plain = [Question(f"{q.query} {q.contexts[0]}") for q in questions]
    assert same(retrieve(world, questions, JOINT), retrieve(world, plain, QUERY_ONLY))


def test_scores_are_the_weighted_sum_of_their_parts(world: VectorWorld) -> None:
    weights = Weights(query=0.7, context=1.1, joint=0.4, selection=-0.3)
    for normalize in ("none", "minmax", "z"):
        for answer in retrieve(world, world.questions[:20], System(weights, normalize=normalize)):
            total = sum(vars(weights)[name] * part for name, part in answer.parts.items())
            assert total == pytest.approx(answer.scores[0], abs=1e-6)
            assert set(answer.parts) == {"query", "context", "joint", "selection"}


def test_the_null_context_may_win(world: VectorWorld) -> None:
    """Contexts that say nothing (the query's own vector turned away) are declined."""
    declined = System(Weights(joint=1.0), null_context=True)
    question = world.questions[0]
    world.vectors["away"] = -3.0 * world.vectors[question.query]
    (answer,) = retrieve(world, [replace(question, contexts=("away",), context=None)], declined)
    assert answer.context is None
    (forced,) = retrieve(world, [replace(question, contexts=("away",), context=None)], JOINT)
    assert forced.context == 0


def test_systems_in_order(world: VectorWorld) -> None:
    """Oracle >= PCAS >= joined contexts, query only and pipeline in recall at 5; PCAS names the context."""
    questions = world.questions
    answers = {
        name: retrieve(world, questions, system)
        for name, system in {
            "oracle": ORACLE,
            "pcas": JOINT,
            "late": LATE,
            "joined": JOINED,
            "query": QUERY_ONLY,
            "pipeline": PIPELINE,
        }.items()
    }
    at_5 = {name: recall(found, questions, 5) for name, found in answers.items()}
    assert at_5["oracle"] >= at_5["pcas"] > at_5["joined"] > at_5["query"]
    assert at_5["pcas"] > at_5["pipeline"]
    assert at_5["pcas"] > 0.9 and at_5["late"] > 0.9 and at_5["query"] < 0.4
    assert named(answers["pcas"], questions) > 0.85
    assert named(answers["pipeline"], questions) < 0.3
    assert recall(answers["query"], questions, 1) < 0.5 * recall(answers["oracle"], questions, 1)


def test_other_users_contexts_do_not_help(world: VectorWorld) -> None:
    shuffled = with_others_contexts(world.questions)
    query = recall(retrieve(world, world.questions, QUERY_ONLY), world.questions, 1)
    answers = retrieve(world, shuffled, JOINT)
    assert abs(recall(answers, shuffled, 1) - query) < 0.05
    assert named(answers, shuffled) == pytest.approx(0.1, abs=0.05)


def test_choice_of_contexts(world: VectorWorld) -> None:
    question = world.questions[3]
    assert choose_contexts(world, question, QUERY_ONLY) == [(None, "")]
    assert choose_contexts(world, question, JOINED) == [(None, " ".join(question.contexts))]
    assert choose_contexts(world, question, ORACLE) == [(question.context, question.contexts[question.context or 0])]
    near = choose_contexts(world, question, replace(PIPELINE, nearest=3, null_context=True))
    similar = world.similarity(question.query, question.contexts)
    assert [place for place, _ in near] == [*np.argsort(-similar)[:3].tolist(), None]
    drawn = {choose_contexts(world, q, System(contexts="random"))[0][0] for q in world.questions[:100]}
    assert drawn == set(range(10))
