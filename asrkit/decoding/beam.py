"""The steps of a beam search as functions: expand, merge equal labels, select.

Shape letters: N utterances whose search continues, K hypotheses of an utterance, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch

from asrkit.symbols import BLANK_ID


@dataclass(frozen=True)
class BeamOptions:
    """Settings of the search."""

    beam: int = 8
    """K, hypotheses kept at each step."""
    nbest: int = 1
    """Most hypotheses returned."""
    expand_beam: int = 0
    """Best labels tried for each hypothesis; 0 tries all."""
    score_margin: float = math.inf
    """Hypotheses that are worse than the best by more than this are dropped."""
    max_symbols: int = 5
    """Most labels at one frame; 0 sets no bound in addition to ``max_labels_per_frame``."""
    max_labels_per_frame: float = 1.0
    """A hypothesis of T' frames has at most this times T' labels, which bounds the number of steps."""
    blank_penalty: float = 0.0
    """Subtracted from blank's logit, for fewer deletions."""
    full_sum: bool = True
    """Whether the alignment-length synchronous search scores its results and greedy's hypothesis by sums over all
    alignments near theirs."""


@dataclass(frozen=True)
class Beam:
    """The hypotheses of all utterances, (N, K) each; unused places have score -inf."""

    score: torch.Tensor
    """Sum over the alignments kept, including fusion."""
    best: torch.Tensor
    """Score of the best alignment."""
    row: torch.Tensor
    """Label history, see :class:`asrkit.decoding.histories.Histories`."""
    parent: torch.Tensor
    """Row of the history without its last label; -1 for the empty one."""
    last: torch.Tensor
    """Last label."""
    length: torch.Tensor
    """Labels so far, u."""
    symbols: torch.Tensor
    """Labels since the last blank, in the best alignment."""

    @property
    def live(self) -> torch.Tensor:
        """(N, K) whether a place holds a hypothesis."""
        return self.score > -math.inf

    def of(self, utterances: torch.Tensor) -> Beam:
        """The beams of some utterances, given by a mask (N,)."""
        return Beam(**{field.name: getattr(self, field.name)[utterances] for field in fields(self)})

    def without(self, places: torch.Tensor) -> Beam:
        """The beam without the hypotheses in some places, (N, K) or (N, 1)."""
        return replace(self, score=self.score.masked_fill(places, -math.inf))


@dataclass(frozen=True)
class Expansion:
    """Every hypothesis with every symbol, (N, K, V) each."""

    score: torch.Tensor
    """Score of the hypothesis with the symbol; -inf if the symbol is not allowed."""
    arcs: torch.Tensor
    """Score of the symbol, including fusion."""
    emission: torch.Tensor
    """Log probability of the symbol by the transducer."""
    label_origin: torch.Tensor | None = None
    """(N, K) place of the hypothesis whose label expansion is the best alignment of a blank expansion, or -1. None if
    there is none."""

    @property
    def blank(self) -> torch.Tensor:
        """(N, K) scores of the blank expansions."""
        return self.score[:, :, BLANK_ID]


@dataclass(frozen=True)
class Arcs:
    """The arcs that led to a beam, (N, K) each."""

    origin: torch.Tensor
    """Place in the previous beam."""
    symbol: torch.Tensor
    log_prob: torch.Tensor
    """By the transducer."""


Extend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Rows of histories (N,) and one more label each (N,) to rows (N,)."""


def first_beam(number: int, width: int, dtype: torch.dtype, device: torch.device) -> Beam:
    """The empty hypothesis of each of N = ``number`` utterances, in beams of K = ``width``."""
    zero = torch.zeros(number, width, dtype=torch.int64, device=device)
    score = torch.full((number, width), -math.inf, dtype=dtype, device=device)
    score[:, 0] = 0.0
    return Beam(score, score.clone(), zero, zero - 1, zero, zero, zero)


def expand(
    beam: Beam, emission: torch.Tensor, bonus: torch.Tensor | None, most: torch.Tensor, options: BeamOptions
) -> Expansion:
    """Scores of every expansion of every hypothesis.

    Args:
        beam: the hypotheses.
        emission: (N, K, V) log probabilities by the transducer.
        bonus: (N, K, V) scores of each label by fusion.
        most: (N, 1) most labels of an utterance.
        options: of the search.
    """
    arcs = emission if bonus is None else emission + bonus
    full = beam.length >= most
    if options.max_symbols:
        full = full | (beam.symbols >= options.max_symbols)
    if full.any():
        arcs = arcs.clone()
        arcs[..., 1:].masked_fill_(full[:, :, None], -math.inf)
    if 0 < options.expand_beam < arcs.shape[2] - 1:
        least = arcs[..., 1:].topk(options.expand_beam).values[..., -1:]
        arcs = torch.cat([arcs[..., :1], arcs[..., 1:].masked_fill(arcs[..., 1:] < least, -math.inf)], dim=-1)
    return Expansion(beam.score[:, :, None] + arcs, arcs, emission)


def merge_equal_labels(beam: Beam, expansion: Expansion) -> Expansion:
    """Sums a hypothesis' blank expansion and its parent's expansion by its last label, which have the same labels.

    Overwrites the scores of ``expansion``.
    """
    live, score, arcs = beam.live, expansion.score, expansion.arcs
    match = beam.parent[:, :, None] == beam.row[:, None, :]  # (N, K, K): the second is the first's parent
    match &= live[:, None, :] & live[:, :, None]
    b, k, m = match.nonzero(as_tuple=True)
    if not len(b):
        return expansion
    label = beam.last[b, k]
    score[b, k, BLANK_ID] = torch.logaddexp(score[b, k, BLANK_ID], score[b, m, label])
    score[b, m, label] = -math.inf
    # Times are those of the better alignment.
    better = beam.best[b, m] + arcs[b, m, label] > beam.best[b, k] + arcs[b, k, BLANK_ID]
    label_origin = torch.full_like(beam.row, -1)
    label_origin[b[better], k[better]] = m[better]
    return replace(expansion, label_origin=label_origin)


def merge_equal_hypotheses(beam: Beam) -> Beam:
    """Sums hypotheses with the same labels into the better one of two."""
    live = beam.live
    same = (beam.row[:, :, None] == beam.row[:, None, :]) & live[:, :, None] & live[:, None, :]
    b, k, m = same.triu(1).nonzero(as_tuple=True)
    if not len(b):
        return beam
    score = beam.score.clone()
    score[b, k] = torch.logaddexp(score[b, k], score[b, m])
    score[b, m] = -math.inf
    return replace(beam, score=score)


def without_blank(expansion: Expansion, places: torch.Tensor) -> Expansion:
    """The expansions except blank in some places (N, K). Overwrites the scores of ``expansion``."""
    expansion.blank.masked_fill_(places, -math.inf)
    return expansion


def select(beam: Beam, expansion: Expansion, extend: Extend, score_margin: float) -> tuple[Beam, Arcs]:
    """The best K expansions as the next beam, and the arcs of their best alignments."""
    batch, width, vocab = expansion.score.shape
    score, index = expansion.score.view(batch, width * vocab).topk(width)
    if score_margin < math.inf:
        score = score.masked_fill(score < score[:, :1] - score_margin, -math.inf)
    source, label = index // vocab, index % vocab
    is_label = label > 0
    origin, emitted = source, label
    if expansion.label_origin is not None:
        # The best alignment of a blank expansion may be the parent's expansion by the last label.
        other = expansion.label_origin.gather(1, source)
        swapped = ~is_label & (other >= 0)
        origin = torch.where(swapped, other, source)
        emitted = torch.where(swapped, beam.last.gather(1, source), label)
    cell = origin * vocab + emitted
    history = beam.row.gather(1, source)
    new = is_label & (score > -math.inf)
    row = history.clone()
    row[new] = extend(history[new], label[new])
    selected = Beam(
        score=score,
        best=beam.best.gather(1, origin) + expansion.arcs.view(batch, -1).gather(1, cell),
        row=row,
        parent=torch.where(is_label, history, beam.parent.gather(1, source)),
        last=torch.where(is_label, label, beam.last.gather(1, source)),
        length=beam.length.gather(1, source) + is_label,
        symbols=torch.where(emitted > 0, beam.symbols.gather(1, origin) + 1, 0),
    )
    return selected, Arcs(origin, emitted, expansion.emission.view(batch, -1).gather(1, cell))
