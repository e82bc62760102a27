"""Personalized context-aware search: retrieving a passage together with the user's pertinent context.

Wan et al. 2023 (arXiv 2308.13760) retrieve both together. Their text gives the task, the claim and the name; the
scoring rules here are a **reconstruction**, a family that contains the plausible rule and the usual baselines:

    S(p, c) = w_q s(q, p) + w_c s(c, p) + w_j s(q ⊕ c, p) + w_r s(q, c)
    score of a passage = max, log-sum-exp or mean of S(p, c) over c;    ĉ = argmax_c max_p S(p, c)

with s from a retriever, ⊕ joining texts, and contexts c chosen by a system.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from asrkit.retrieval.questions import Question
from asrkit.retrieval.retrievers import Retriever
from asrkit.settings import setting


@dataclass
class Weights:
    """Weights of the four parts of S(p, c)."""

    query: float = 0.0
    """w_q."""
    context: float = 0.0
    """w_c."""
    joint: float = 0.0
    """w_j."""
    selection: float = 0.0
    """w_r."""


@dataclass
class System:
    """A way to use contexts."""

    weights: Weights = field(default_factory=Weights)
    contexts: str = setting(
        "all",
        "Contexts to use: `joined` all in one text, `random` one, `nearest` to the query, `gold` the pertinent one.",
        choices=("all", "none", "joined", "random", "nearest", "gold"),
    )
    nearest: int = 1
    """Number of nearest contexts."""
    null_context: bool = False
    """Whether to add an empty context, so that the system may decline to personalize."""
    aggregate: str = setting("max", "Aggregation over contexts.", choices=("max", "logsumexp", "mean"))
    temperature: float = 0.05
    """Temperature of ``logsumexp``."""
    normalize: str = setting(
        "none",
        "Normalization of each part, over the contexts and candidates of a question.",
        choices=("none", "minmax", "z"),
    )

    @property
    def names_context(self) -> bool:
        """Whether it names the pertinent context."""
        return self.contexts in ("all", "random", "nearest")


@dataclass(frozen=True)
class Parts:
    """Scores s of one question's M contexts and K candidate passages."""

    query: np.ndarray  # (K,)
    context: np.ndarray  # (M, K)
    joint: np.ndarray  # (M, K)
    selection: np.ndarray  # (M,)

    def named(self) -> dict[str, np.ndarray]:
        """Each part as (M, K), by the name of its weight."""
        shape = self.joint.shape
        return {
            "query": np.broadcast_to(self.query, shape),
            "context": self.context,
            "joint": self.joint,
            "selection": np.broadcast_to(self.selection[:, None], shape),
        }


@dataclass(frozen=True)
class Retrieved:
    """The answer to one question."""

    passages: np.ndarray
    """(K,) indices, best first."""
    scores: np.ndarray
    """(K,)."""
    context: int | None
    """Index of ĉ in the question's contexts; None if none was used."""
    parts: dict[str, float]
    """s of the first passage with its best context, by weight; the weighted sum is S(p, c)."""


def joint_scores(parts: Parts, system: System) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """S(p, c) as (M, K), and its parts (normalized, not yet weighted)."""
    weights = vars(system.weights)
    used = {name: _normalized(part, system.normalize) for name, part in parts.named().items() if weights[name]}
    total = np.zeros(parts.joint.shape)
    for name, part in used.items():
        total = total + weights[name] * part
    return total, used


def aggregate(scores: np.ndarray, system: System) -> np.ndarray:
    """(M, K) S(p, c) to (K,) scores of passages."""
    if system.aggregate == "mean":
        return np.asarray(scores.mean(axis=0))
    if system.aggregate == "logsumexp":
        highest = scores.max(axis=0)
        shifted = np.exp((scores - highest) / system.temperature).sum(axis=0)
        return np.asarray(highest + system.temperature * np.log(shifted))
    return np.asarray(scores.max(axis=0))


def retrieve(
    retriever: Retriever, questions: Sequence[Question], system: System, depth: int = 100, separator: str = " "
) -> list[Retrieved]:
    """Answers questions.

    The candidates are the union of the ``depth`` best passages of every text that the system searches for; they are
    scored exactly. Passages with equal scores are ordered by index.

    Args:
        retriever: s.
        questions: queries and contexts.
        system: its use of contexts.
        depth: passages per search.
        separator: between query and context.
    """
    chosen = [choose_contexts(retriever, question, system, separator) for question in questions]
    searches = [
        _search_texts(question.query, [text for _, text in contexts], system.weights, separator)
        for question, contexts in zip(questions, chosen, strict=True)
    ]
    unique = list(dict.fromkeys(text for texts in searches for text in texts))
    hits = dict(zip(unique, retriever.search(unique, depth), strict=True)) if unique else {}
    answers = []
    for question, contexts, texts in zip(questions, chosen, searches, strict=True):
        candidates = np.unique(np.concatenate([hits[text] for text in texts]))
        candidates = candidates[candidates >= 0]
        parts = score_parts(retriever, question.query, [text for _, text in contexts], candidates, system, separator)
        answers.append(rank(parts, candidates, [place for place, _ in contexts], system))
    return answers


def rank(parts: Parts, candidates: np.ndarray, places: Sequence[int | None], system: System) -> Retrieved:
    """Orders one question's candidates.

    Args:
        parts: of M contexts and K candidates.
        candidates: (K,) indices of passages.
        places: indices of the M contexts in the question; None for the empty one or for joined ones.
        system: its weights and aggregation.
    """
    scores, used = joint_scores(parts, system)
    passage_scores = aggregate(scores, system)
    order = np.lexsort((candidates, -passage_scores))
    best = int(scores.max(axis=1).argmax())
    first = order[0]
    with_first = int(scores[:, first].argmax())
    return Retrieved(
        candidates[order],
        passage_scores[order],
        places[best],
        {name: float(part[with_first, first]) for name, part in used.items()},
    )


def choose_contexts(
    retriever: Retriever, question: Question, system: System, separator: str = " "
) -> list[tuple[int | None, str]]:
    """The contexts that are used, with their indices in the question; an empty one if there are no others."""
    chosen: list[tuple[int | None, str]] = list(enumerate(question.contexts))
    if system.contexts == "none":
        chosen = []
    elif system.contexts == "joined" and chosen:
        chosen = [(None, separator.join(question.contexts))]
    elif system.contexts == "random" and chosen:
        drawn = zlib.crc32("\n".join((question.query, *question.contexts)).encode()) % len(chosen)
        chosen = [chosen[drawn]]
    elif system.contexts == "nearest" and chosen:
        similar = retriever.similarity(question.query, question.contexts)
        chosen = [chosen[i] for i in np.argsort(-similar, kind="stable")[: system.nearest]]
    elif system.contexts == "gold":
        chosen = [] if question.context is None else [chosen[question.context]]
    if system.null_context or not chosen:
        chosen.append((None, ""))
    return chosen


def score_parts(
    retriever: Retriever,
    query: str,
    contexts: Sequence[str],
    candidates: np.ndarray,
    system: System,
    separator: str = " ",
) -> Parts:
    """The parts with a weight (the others are 0) for the contexts and candidates of a question.

    An empty context has s(c, p) = s(q, c) = 0 and q ⊕ c = q.
    """
    weights, count, width = system.weights, len(contexts), len(candidates)
    nonempty = [i for i, text in enumerate(contexts) if text]
    texts = [contexts[i] for i in nonempty]
    context_scores, selection = np.zeros((count, width)), np.zeros(count)
    if weights.context and texts:
        context_scores[nonempty] = retriever.score(texts, candidates)
    if weights.selection and texts:
        selection[nonempty] = retriever.similarity(query, texts)
    joint = np.zeros((count, width))
    if weights.joint:
        joint = retriever.score([joined(query, text, separator) for text in contexts], candidates)
    query_scores = retriever.score([query], candidates)[0] if weights.query else np.zeros(width)
    return Parts(query_scores, context_scores, joint, selection)


def joined(query: str, context: str, separator: str) -> str:
    """q ⊕ c; encoders truncate the end of too long texts."""
    return f"{query}{separator}{context}" if context else query


def _search_texts(query: str, contexts: Sequence[str], weights: Weights, separator: str) -> list[str]:
    texts = [query] if weights.query or not (weights.joint or weights.context) else []
    if weights.context:
        texts += [text for text in contexts if text] or [query]
    if weights.joint:
        texts += [joined(query, text, separator) for text in contexts]
    return texts


def _normalized(part: np.ndarray, how: str) -> np.ndarray:
    if how == "none":
        return part
    shifted = part - (part.min() if how == "minmax" else part.mean())
    scale = np.ptp(part) if how == "minmax" else part.std()
    return shifted / scale if scale > 0 else np.zeros_like(shifted)
