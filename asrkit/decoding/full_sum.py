"""The probability of complete hypotheses, summed over their alignments.

A beam sums only the alignments that it kept, so its scores are estimates. Its few results are cheap to score on the
lattice of the training loss (Graves 2012, arXiv 1211.3711, section 2.4), for two reasons. They share most of their
label histories, so their lattices form one tree of columns, one for each distinct history. And a label of one frame has
almost no probability a second away, so a column holds only the frames near those at which a hypothesis had its history:
time and memory grow linearly with the length of an utterance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asrkit.decoding.histories import Histories
from asrkit.decoding.hypothesis import Hypothesis

BAND_S = 0.64
"""A history's column begins this many seconds before its last label and ends as many after the next."""
NODES_AT_ONCE = 1 << 21
"""Most lattice nodes, shared ones counted repeatedly, of hypotheses whose sums are computed together."""
JOINT_AT_ONCE = 1 << 18
"""Elements of the joiner's input, few enough for the CPU cache."""

Emit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Projections of encoder and predictor (N, J), (N, J) to log probabilities (N, V)."""
Extend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Rows of the predictor's table (N,) and one more label each (N,) to rows (N,)."""
Candidate = tuple[int, Hypothesis]
"""An utterance's number and one of its hypotheses."""


def with_sums(
    candidates: list[Candidate],
    emit: Emit,
    encoder_proj: torch.Tensor,
    encoder_lens: torch.Tensor,
    histories: Histories,
    frame_shift_s: float,
) -> Iterator[Hypothesis]:
    """The hypotheses with the log P(y | x) of :func:`full_sums` among their parts; their scores are not set.

    Args:
        candidates: in the order of the utterances.
        emit: the joiner.
        encoder_proj: (B, T', J).
        encoder_lens: (B,), at least 1 if there is a hypothesis.
        histories: of the search, with its predictor outputs.
        frame_shift_s: seconds between encoder frames.
    """
    device, band = encoder_proj.device, math.ceil(BAND_S / frame_shift_s)
    for group in _groups(candidates, encoder_lens.tolist(), band):
        utterance = torch.tensor([b for b, _ in group], device=device)
        token_lens = torch.tensor([len(h.tokens) for _, h in group], device=device)
        tokens = pad_sequence([torch.tensor(h.tokens, dtype=torch.int64) for _, h in group], batch_first=True)
        times = pad_sequence([torch.tensor(h.token_times) for _, h in group], batch_first=True)
        tokens, frames = tokens.to(device), (times / frame_shift_s).round().long().to(device)
        tree = label_tree(histories.extend, tokens, token_lens, utterance)
        args = emit, encoder_proj, encoder_lens, histories.projection, tree, token_lens, frames, band
        ends = tree.row[tree.place.gather(1, token_lens[:, None])].squeeze(1)
        sums = full_sums(*args).tolist()
        for (_, h), am, lms in zip(group, sums, histories.parts(ends), strict=True):
            yield replace(h, parts={"am": am} | lms)


def _groups(candidates: list[Candidate], frames: list[int], band: int) -> Iterator[list[Candidate]]:
    """Groups of all hypotheses of some utterances, within :data:`NODES_AT_ONCE`."""
    group: list[Candidate] = []
    nodes = 0
    for b, utterance_candidates in groupby(candidates, key=lambda candidate: candidate[0]):
        members = list(utterance_candidates)
        needed = sum(frames[b] + 2 * band * len(h.tokens) for _, h in members)
        if group and nodes + needed > NODES_AT_ONCE:
            yield group
            group, nodes = [], 0
        group += members
        nodes += needed
    if group:
        yield group


@dataclass(frozen=True)
class LabelTree:
    """The distinct label histories of N hypotheses, C of them: shorter ones first, children by their parents.

    Histories of different utterances are different, even with the same labels.
    """

    utterance: torch.Tensor
    """(C,)."""
    row: torch.Tensor
    """(C,) in the predictor's table."""
    parent: torch.Tensor
    """(C,) ascending; -1 for the empty histories."""
    label: torch.Tensor
    """(C,) the last label."""
    length: torch.Tensor
    """(C,) labels."""
    place: torch.Tensor
    """(N, U + 1) each hypothesis' histories in the tree, from the empty to the complete one."""


def label_tree(extend: Extend, tokens: torch.Tensor, token_lens: torch.Tensor, utterance: torch.Tensor) -> LabelTree:
    """The tree of label sequences (N, U) with (N,) labels, of the utterances (N,); the empty history has row 0."""
    symbols = int(tokens.max()) + 1 if tokens.numel() else 1
    roots, index = utterance.unique(return_inverse=True)
    place = tokens.new_zeros(len(tokens), tokens.shape[1] + 1)
    place[:, 0] = index
    none = torch.zeros_like(roots)
    levels = [(roots, none, none - 1, none, none)]
    size = 0  # columns before the last level
    for u in range(tokens.shape[1]):
        utterances, row, *_ = levels[-1]
        present = u < token_lens
        keys, child = (place[present, u] * symbols + tokens[present, u]).unique(return_inverse=True)
        parent, label = keys // symbols, keys % symbols
        utterances, row = utterances[parent - size], row[parent - size]
        size += len(levels[-1][0])
        place[present, u + 1] = size + child
        levels.append((utterances, extend(row, label), parent, label, torch.full_like(label, u + 1)))
    utterances, row, parent, label, length = (torch.cat(parts) for parts in zip(*levels, strict=True))
    return LabelTree(utterances, row, parent, label, length, place)


def full_sums(
    emit: Emit,
    encoder_proj: torch.Tensor,
    encoder_lens: torch.Tensor,
    predictor_proj: torch.Tensor,
    tree: LabelTree,
    token_lens: torch.Tensor,
    frames: torch.Tensor,
    band: int,
) -> torch.Tensor:
    """log P(y | x) of N hypotheses, (N,) in float64, over at least all alignments with each label near its frame.

    Args:
        emit: the joiner.
        encoder_proj: (B, T', J).
        encoder_lens: (B,), at least 1 if there is a hypothesis.
        predictor_proj: (R, J) by row of the predictor's table.
        tree: the hypotheses' label histories.
        token_lens: (N,).
        frames: (N, U) frames of the labels.
        band: most frames between label and alignment. Hypotheses that share a history at different frames also share
            their bands.
    """
    first, end = _band(tree, encoder_lens, token_lens, frames, band)
    number = end - first
    offset = number.cumsum(0) - number
    column = torch.arange(len(number), device=number.device).repeat_interleave(number)
    frame = torch.arange(len(column), device=number.device) + (first - offset)[column]
    blank, label = _arcs(emit, encoder_proj, predictor_proj, tree, first, end, column, frame)
    into_blank = blank.roll(1)  # the arc from the previous frame, which a column's first node lacks
    into_blank[offset] = -math.inf
    reached = _recursion(tree, column, frame, into_blank, label)
    last = tree.place.gather(1, token_lens[:, None]).squeeze(1)
    return reached[last] + blank[offset[last] + number[last] - 1]


def _band(
    tree: LabelTree, encoder_lens: torch.Tensor, token_lens: torch.Tensor, frames: torch.Tensor, band: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """First frame of each column (C,) and the frame after its last, for all hypotheses of the tree."""
    lens = encoder_lens[tree.utterance[tree.place[:, 0]]][:, None]
    position = torch.arange(tree.place.shape[1], device=frames.device)
    empty = frames.new_zeros(len(frames), 1)
    begin = torch.cat([empty, frames - band], dim=1).clamp(min=0)
    stop = torch.minimum(torch.cat([frames + band + 1, empty], dim=1), lens)
    stop = torch.where(position == token_lens[:, None], lens, stop)
    present = position <= token_lens[:, None]
    column = tree.place[present]
    first = torch.full_like(tree.row, torch.iinfo(torch.int64).max).scatter_reduce(0, column, begin[present], "amin")
    return first, torch.zeros_like(tree.row).scatter_reduce(0, column, stop[present], "amax")


def _arcs(
    emit: Emit,
    encoder_proj: torch.Tensor,
    predictor_proj: torch.Tensor,
    tree: LabelTree,
    first: torch.Tensor,
    end: torch.Tensor,
    column: torch.Tensor,
    frame: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each node, given by ``column`` and ``frame``: log probability of blank, and of the label that leads to it
    from its parent's node at the same frame; -inf if the parent has none."""
    offset = torch.cat([first.new_zeros(1), (end - first).cumsum(0)])
    encoder = encoder_proj.flatten(0, 1)
    encoder_row = tree.utterance[column] * encoder_proj.shape[1] + frame
    predictor_row, symbol, parent = tree.row[column], tree.label[column], tree.parent[column]
    origin = offset[parent] + frame - first[parent]
    absent = (parent < 0) | (frame < first[parent]) | (frame >= end[parent])
    # Each joiner call is for columns with consecutive nodes and consecutive children.
    _, sizes = (offset[:-1] // max(1, JOINT_AT_ONCE // encoder.shape[1])).unique_consecutive(return_counts=True)
    columns = torch.cat([first.new_zeros(1), sizes.cumsum(0)])
    children = torch.searchsorted(tree.parent, columns)
    blank, label = [], [encoder.new_full((int(offset[children[0]]),), -math.inf)]
    blocks = (pairwise(offset[edges].tolist()) for edges in (columns, children))
    for (a, b), (c, d) in zip(*blocks, strict=True):
        log_probs = emit(F.embedding(encoder_row[a:b], encoder), F.embedding(predictor_row[a:b], predictor_proj))
        blank.append(log_probs[:, 0])
        parent_node = (origin[c:d] - a).clamp(0, b - a - 1)
        label.append(log_probs[parent_node, symbol[c:d]].masked_fill(absent[c:d], -math.inf))
    return torch.cat(blank), torch.cat(label)


def _recursion(
    tree: LabelTree, column: torch.Tensor, frame: torch.Tensor, blank: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    """Log probability (C,) in float64 of reaching each column's last node, from the arcs into every node.

    All nodes with the same number of frames + labels are computed at once, from those with one less.
    """
    diagonal = frame + tree.length[column]
    order = diagonal.argsort(stable=True)
    sizes = diagonal.bincount().tolist()
    column = column[order]
    steps = zip(*(x.split(sizes) for x in (column, tree.parent[column], blank[order], label[order])), strict=True)
    reached = blank.new_full((len(tree.row),), -math.inf, dtype=torch.float64)
    reached[next(steps)[0]] = 0.0
    for node, parent, blank_arc, label_arc in steps:
        reached[node] = torch.logaddexp(reached[node] + blank_arc, reached[parent] + label_arc)
    return reached
