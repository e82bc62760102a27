"""Aligning optional words, fragments and alternatives as NIST sclite does.

A reference such as ``i (uh) saw { it is / it's } de-`` and a hypothesis become networks of words, which
:func:`align_networks` aligns. Costs and the choice among alignments of equal cost are those of sclite (SCTK 2.4) with
``-F -D``, so that the counts are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asrkit.errors import UserError, shown
from asrkit.scoring.alignment import GAP, Pair
from asrkit.scoring.wer import Errors, count_errors

NOTHING = "@"
"""An alternative without words."""
Path = tuple[int, ...]
_SUBSTITUTION, _GAP_COST, _OPTIONAL, _SKIP, _BOTH_EMPTY = (np.float32(cost) for cost in (4, 3, 2, 0.001, 1))


@dataclass(frozen=True)
class Arc:
    """One word of a network."""

    word: str
    optional: bool
    fragment: bool
    predecessors: Path
    """Numbers of the arcs that may directly precede it."""

    @property
    def gap_cost(self) -> np.float32:
        """Cost of deleting or inserting the word."""
        return _SKIP if self.word == NOTHING else _OPTIONAL if self.optional else _GAP_COST


@dataclass(frozen=True)
class Network:
    """Arcs in topological order, the first one an empty start."""

    arcs: list[Arc]
    last: Path
    """Numbers of the arcs that may be the last."""


Part = str | list[list["Part"]]
"""A word, or alternatives, each a sequence of parts."""


def parse(text: str) -> list[Part]:
    """The parts of a reference. Braces enclose alternatives, and slashes separate them.

    Raises:
        UserError: braces do not match.
    """
    stack: list[list[list[Part]]] = [[[]]]
    for word in text.replace("{", " { ").replace("}", " } ").split():
        if word == "{":
            stack.append([[]])
        elif word == "}" and len(stack) > 1:
            group = [alternative for alternative in stack.pop() if alternative]
            stack[-1][-1].append(group)
        elif word == "/" and len(stack) > 1:
            stack[-1].append([])
        elif word == "}":
            stack.append([])
            break
        else:
            stack[-1][-1].append(word)
    if len(stack) > 1:
        raise UserError(f"the reference '{shown(text[:80])}' has braces that do not match")
    return stack[0][0]


def network(parts: Sequence[Part]) -> Network:
    """The network of a sequence of words and alternatives, in lower case."""
    arcs = [Arc("", False, False, ())]
    return Network(arcs, _add(arcs, parts, (0,)))


def _add(arcs: list[Arc], parts: Sequence[Part], before: Path) -> Path:
    """Adds the arcs of parts and returns those that may be the last."""
    for part in parts:
        if isinstance(part, str):
            arcs.append(_arc(part.lower(), before))
            before = (len(arcs) - 1,)
        elif part:
            before = tuple(number for alternative in part for number in _add(arcs, alternative, before))
    return before


def _arc(word: str, before: Path) -> Arc:
    if len(word) > 1 and word.endswith("*"):
        word = word[:-1]
    optional = len(word) > 2 and word[0] == "(" and word[-1] == ")"
    fragment = word.startswith("-") or word.endswith("-") or (optional and word[-2] == "-")
    return Arc(word[1:-1] if optional else word, optional, fragment, before)


def align_networks(reference: Network, hypothesis: Network) -> list[Pair]:
    """Pairs of words on the best paths through both networks, ``***`` for a gap. An optional word that only one side
    has is paired with itself."""
    cost, back = _costs(reference, hypothesis)
    ends = [(a, b) for a in reference.last for b in hypothesis.last]
    a, b = min(ends, key=lambda end: cost[end])
    pairs: list[Pair] = []
    while a or b:
        ref, hyp = reference.arcs[a], hypothesis.arcs[b]
        before_a, before_b = back[a, b]
        if a == before_a:
            if hyp.word != NOTHING:
                pairs.append((hyp.word if hyp.optional else GAP, hyp.word))
        elif b == before_b:
            if ref.word != NOTHING:
                pairs.append((ref.word, ref.word if ref.optional else GAP))
        elif not ref.word == hyp.word == NOTHING:
            pairs.append((ref.word, ref.word if _same(ref, hyp) else hyp.word))
        a, b = before_a, before_b
    return pairs[::-1]


def errors_of(pairs: Sequence[Pair]) -> Errors:
    """Counts of an alignment; optional words that were aligned are part of the reference."""
    return count_errors(pairs, sum(ref is not GAP for ref, _ in pairs))


def _costs(
    reference: Network, hypothesis: Network
) -> tuple[dict[tuple[int, int], np.float32], dict[tuple[int, int], tuple[int, int]]]:
    """The cost of aligning the paths up to each pair of arcs, in sclite's float32, and the preceding pair."""
    cost = {(0, 0): np.float32(0)}
    back: dict[tuple[int, int], tuple[int, int]] = {}
    for a, ref in enumerate(reference.arcs):
        for b, hyp in enumerate(hypothesis.arcs):
            steps = []  # in the order in which sclite prefers them
            if a and b:
                before = min(((i, j) for i in ref.predecessors for j in hyp.predecessors), key=lambda cell: cost[cell])
                steps.append((cost[before] + _pair_cost(ref, hyp), before))
            if b:
                before = min(((a, j) for j in hyp.predecessors), key=lambda cell: cost[cell])
                steps.append((cost[before] + hyp.gap_cost, before))
            if a:
                before = min(((i, b) for i in ref.predecessors), key=lambda cell: cost[cell])
                steps.append((cost[before] + ref.gap_cost, before))
            if steps:
                cost[a, b], back[a, b] = min(steps, key=lambda step: step[0])
    return cost, back


def _pair_cost(ref: Arc, hyp: Arc) -> np.float32:
    if ref.word == hyp.word == NOTHING:
        return _BOTH_EMPTY
    return np.float32(0) if _same(ref, hyp) else _SUBSTITUTION


def _same(ref: Arc, hyp: Arc) -> bool:
    """Whether the words are equal; ``de-`` equals any word with that beginning, ``-ty`` any with that ending."""
    if ref.fragment or hyp.fragment:
        for fragment, word in ((ref.word, hyp.word), (hyp.word, ref.word)):
            if len(fragment) > 1 and fragment[0] == "-":
                return word.endswith(fragment[1:])
            if len(fragment) > 1 and fragment[-1] == "-":
                return word.startswith(fragment[:-1])
    return ref.word == hyp.word
