"""Beam search of a transducer, batched over utterances and hypotheses.

Alignment-length synchronous (Saon et al. 2020, "Alignment-length synchronous decoding for RNN transducer",
ICASSP): at step i every hypothesis has the same alignment length t + u = i, where t frames have been left by
blank and u labels emitted, so that all are compared after equally many decisions. The time-synchronous
"modified" search (Kang et al. 2023, arXiv 2211.00484) emits at most one label a frame; its hypotheses all stand at
the same frame.

Shape letters: B utterances, K hypotheses of an utterance, V symbols, J width of the joiner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch.nn.utils.rnn import pad_sequence

from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.full_sum import LARGEST, full_sums, lattice_nodes
from asrkit.decoding.greedy import greedy_search
from asrkit.decoding.histories import Histories
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.traceback import Final, Trace, hypotheses
from asrkit.models.transducer import Transducer

BLANK_ID = 0
GREEDY_SYMBOLS = 5
"""Most labels at one frame of greedy's hypothesis where the search sets no bound."""
REACH = 2.0
"""What the alignments outside the beam may bring one hypothesis more than another: 1.2 was seen of a badly trained
model with a beam of 4."""
NEGLIGIBLE = 20.0
"""A beam whose whole probability is e^-20 of the worst kept result's cannot change the results any more."""


@dataclass(frozen=True)
class BeamOptions:
    """Settings of the search."""

    beam: int = 8
    """K, hypotheses kept at each step."""
    nbest: int = 1
    """Most hypotheses returned."""
    expand_beam: int = 0
    """Labels tried for each hypothesis, the best ones; 0 tries all."""
    score_margin: float = math.inf
    """Hypotheses worse than the best by more are dropped."""
    max_symbols: int = 5
    """Most labels at one frame; 0 sets no bound beside ``max_labels_per_frame``."""
    max_labels_per_frame: float = 1.0
    """A hypothesis of T' frames has at most this times T' labels, so a search ends after so many more steps."""
    blank_penalty: float = 0.0
    """Subtracted from blank's logit: fewer deletions."""
    full_sum: bool = True
    """Whether the alignment-length synchronous search scores what it found, and greedy's, by all alignments."""


@dataclass
class Beam:
    """The hypotheses of all utterances, (B, K) each; unused places have the score -inf."""

    score: torch.Tensor
    """Sum over the alignments kept, fusion included."""
    best: torch.Tensor
    """Score of the best one of them."""
    row: torch.Tensor
    """Label history, see :class:`Histories`."""
    parent: torch.Tensor
    """Row of the history without its last label; -1 for the empty one."""
    last: torch.Tensor
    """Last label."""
    length: torch.Tensor
    """Labels so far, u."""
    symbols: torch.Tensor
    """Labels since the last blank, in the best alignment."""
    source: torch.Tensor
    target: torch.Tensor
    """log p of the labels by the language models."""


@torch.inference_mode()
def beam_search(
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    *,
    frame_shift_s: float,
    options: BeamOptions | None = None,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """n-best lists by the alignment-length synchronous search.

    Args:
        model: the transducer.
        encoder_out: (B, T', D).
        encoder_lens: (B,).
        frame_shift_s: seconds between encoder frames.
        options: see :class:`BeamOptions`.
        fusion: language models to add, see :class:`Fusion`.

    Returns:
        For each utterance its hypotheses, best first. Scores are log probabilities summed over all alignments,
        plus fusion; without ``full_sum``, or where the lattices would be too large for it, over the alignments
        that the beam kept. An utterance without frames has the empty hypothesis.
    """
    options = options or BeamOptions()
    search = _Search(model, encoder_out, encoder_lens, options, fusion)
    most = torch.ceil(encoder_lens.double() * options.max_labels_per_frame).long()
    for i in range(int((encoder_lens + most).max()) if len(encoder_lens) else 0):
        frame = i - search.beam.length
        cells = search.scores(frame, most)
        search.add_equal_labels(cells)
        ends = frame == encoder_lens[:, None] - 1
        search.finish(ends, cells[:, :, BLANK_ID], i)
        cells[:, :, BLANK_ID].masked_fill_(ends, -math.inf)
        search.keep_best(cells)
        search.drop_settled()
        if not search.alive():
            break
    ranked = [sorted(finals, key=lambda final: -final.score) for finals in search.finals]
    ranked = [_within_reach(finals, options) if options.full_sum else finals[: options.nbest] for finals in ranked]
    found = hypotheses(ranked, search.trace, synchronous=False, frame_shift_s=frame_shift_s)
    if options.full_sum:
        found = _with_full_sums(search, encoder_out, encoder_lens, most, found, frame_shift_s)
    return [nbest[: options.nbest] for nbest in found]


def _within_reach(finals: list[Final], options: BeamOptions) -> list[Final]:
    """The results of an utterance, best first, that alignments outside the beam may still bring into its list."""
    least = finals[: options.nbest][-1].score - REACH
    return [final for final in finals[: max(options.nbest, options.beam)] if final.score >= least]


def _with_full_sums(
    search: _Search,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    most: torch.Tensor,
    found: list[list[Hypothesis]],
    shift_s: float,
) -> list[list[Hypothesis]]:
    """The lists with greedy's hypothesis in them, by their full sums; as they are where that takes too much memory."""
    frames, options = encoder_lens.tolist(), search.options
    small = [b for b, nbest in enumerate(found) if frames[b] and lattice_nodes(frames[b], nbest) <= LARGEST]
    if not small:
        return found
    greedy = greedy_search(
        search.model, encoder_out[small], encoder_lens[small], frame_shift_s=shift_s,
        max_symbols=options.max_symbols or GREEDY_SYMBOLS, blank_penalty=options.blank_penalty,
    )  # fmt: skip
    candidates = {b: found[b] for b in small}
    for b, best in zip(small, greedy, strict=True):
        more = [*found[b], best]
        fits = len(best.tokens) <= most[b] and lattice_nodes(frames[b], more) <= LARGEST
        if fits and best.tokens not in [h.tokens for h in found[b]]:
            candidates[b] = more
    rescored = iter(search.full_sums(candidates, encoder_lens))
    ranked = list(found)
    for b, nbest in candidates.items():
        ranked[b] = sorted((next(rescored) for _ in nbest), key=lambda h: -h.score)
    return ranked


@torch.inference_mode()
def modified_beam_search(
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    *,
    frame_shift_s: float,
    options: BeamOptions | None = None,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """n-best lists by the time-synchronous search with at most one label a frame; see :func:`beam_search`.

    As in icefall and sherpa-onnx, equal label sequences are added up after pruning, and the order of the list
    divides a score by the number of labels and of the blanks of the initial context; the
    scores themselves are not divided.
    """
    options = replace(options or BeamOptions(), max_symbols=0)  # one label a frame is the rule already
    search = _Search(model, encoder_out, encoder_lens, options, fusion)
    most = encoder_lens
    for i in range(int(encoder_lens.max()) if len(encoder_lens) else 0):
        frame = torch.full_like(search.beam.length, i)
        ends = frame == encoder_lens[:, None] - 1
        search.keep_best(search.scores(frame, most))
        search.add_equal_hypotheses()
        search.finish(ends, search.beam.score, i + 1)
        search.beam.score.masked_fill_(ends, -math.inf)
    context = model.predictor.context_size
    ranked = [
        sorted(finals, key=lambda final: -final.score / (final.length + context))[: options.nbest]
        for finals in search.finals
    ]
    return hypotheses(ranked, search.trace, synchronous=True, frame_shift_s=frame_shift_s)


class _Search:
    """A batch's beam, and what a step of it is."""

    def __init__(
        self,
        model: Transducer,
        encoder_out: torch.Tensor,
        encoder_lens: torch.Tensor,
        options: BeamOptions,
        fusion: Fusion | None,
    ) -> None:
        self.model, self.options = model, options
        self.weights = fusion.weights if fusion is not None else FusionWeights()
        self.fused = fusion is not None
        self.encoder_proj = model.joiner.encoder_proj(encoder_out)  # (B, T', J)
        self.histories = Histories(model, fusion)
        self.trace = Trace()
        self.utterance = torch.arange(len(encoder_lens), device=encoder_out.device)[:, None]
        self.by_label: torch.Tensor | None = None
        """(B, K) from whose expansion by a label the best alignment of a blank expansion comes, or -1."""
        shape, device = (len(encoder_lens), options.beam), encoder_out.device
        dtype = torch.promote_types(self.encoder_proj.dtype, torch.float32)
        whole = torch.zeros(shape, dtype=torch.int64, device=device)
        real = torch.zeros(shape, dtype=dtype, device=device)
        score = torch.full_like(real, -math.inf)
        score[encoder_lens > 0, 0] = 0.0
        self.beam = Beam(score, score.clone(), whole, whole - 1, whole, whole, whole, real, real)
        # An utterance without frames is done.
        self.finals: list[list[Final]] = [[] if frames else [Final()] for frames in encoder_lens.tolist()]
        self.negligible = torch.full(shape[:1], -math.inf, dtype=dtype, device=device)

    def alive(self) -> bool:
        """Whether any hypothesis is left in the beam."""
        return bool((self.beam.score > -math.inf).any())

    def scores(self, frame: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        """Scores (B, K, V) of every expansion of every hypothesis.

        Args:
            frame: (B, K) where each hypothesis stands.
            most: (B,) most labels of an utterance.
        """
        beam, options = self.beam, self.options
        frame = frame.clamp(0, self.encoder_proj.shape[1] - 1)  # unused places stand anywhere
        projected = self.encoder_proj[self.utterance, frame]  # (B, K, J)
        self.emission = step = self.emit(projected, self.histories.projection[beam.row])
        if self.fused:
            weights = self.weights
            bonus = weights.target * self.histories.target[beam.row, 1:] + weights.length
            if weights.source:
                bonus -= weights.source * self.histories.source[beam.row, 1:]
            step = torch.cat([step[..., :1], step[..., 1:] + bonus], dim=-1)
        full = beam.length >= most[:, None]
        if options.max_symbols:
            full = full | (beam.symbols >= options.max_symbols)
        if full.any():
            step = step.clone()
            step[..., 1:].masked_fill_(full[:, :, None], -math.inf)
        if 0 < options.expand_beam < step.shape[2] - 1:
            least = step[..., 1:].topk(options.expand_beam).values[..., -1:]
            step = torch.cat([step[..., :1], step[..., 1:].masked_fill(step[..., 1:] < least, -math.inf)], dim=-1)
        self.step = step
        return beam.score[:, :, None] + step

    def emit(self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor) -> torch.Tensor:
        """Log probabilities (..., V) of the transducer, from projections (..., J) that broadcast."""
        return self.model.joiner.log_probs(encoder_proj, predictor_proj, self.options.blank_penalty)

    def full_sums(self, candidates: dict[int, list[Hypothesis]], encoder_lens: torch.Tensor) -> list[Hypothesis]:
        """Utterances' hypotheses, one after the other, with scores over all alignments."""
        device, histories = encoder_lens.device, self.histories
        flat = [(b, h) for b, nbest in candidates.items() for h in nbest]
        utterance = torch.tensor([b for b, _ in flat], device=device)
        tokens = pad_sequence([torch.tensor(h.tokens, dtype=torch.int64, device=device) for _, h in flat], True)
        token_lens = torch.tensor([len(h.tokens) for _, h in flat], device=device)
        rows = histories.walk(tokens, token_lens)
        sums = full_sums(
            self.emit, self.encoder_proj, encoder_lens, histories.projection, rows, tokens, token_lens, utterance
        )
        columns = sums, token_lens, *histories.lm_scores(rows, tokens, token_lens)
        scores = zip(*(column.tolist() for column in columns), strict=True)
        return [
            replace(h, score=am + self.bonus(*lm), parts=self.parts(am, *lm))
            for (_, h), (am, *lm) in zip(flat, scores, strict=True)
        ]

    def bonus(self, length: int, source: float, target: float) -> float:
        """What fusion adds to a hypothesis of so many labels with these log p by the language models."""
        weights = self.weights
        return weights.target * target - weights.source * source + weights.length * length if self.fused else 0.0

    def parts(self, am: float, length: int, source: float, target: float) -> dict[str, float]:
        """A score's parts by name."""
        lms = {"source_lm": source, "target_lm": target, "length": float(length)} if self.fused else {}
        return {"am": am, **lms}

    def add_equal_labels(self, cells: torch.Tensor) -> None:
        """Adds up a hypothesis' blank expansion and its parent's expansion by its last label: the same labels."""
        beam, live = self.beam, self.beam.score > -math.inf
        match = beam.parent[:, :, None] == beam.row[:, None, :]  # (B, K, K): the second is the first's parent
        match &= live[:, None, :] & live[:, :, None]
        b, k, m = match.nonzero(as_tuple=True)
        if not len(b):
            return
        label = beam.last[b, k]
        cells[b, k, BLANK_ID] = torch.logaddexp(cells[b, k, BLANK_ID], cells[b, m, label])
        cells[b, m, label] = -math.inf
        # Times are those of the better alignment.
        better = beam.best[b, m] + self.step[b, m, label] > beam.best[b, k] + self.step[b, k, BLANK_ID]
        self.by_label = torch.full_like(beam.row, -1)
        self.by_label[b[better], k[better]] = m[better]

    def add_equal_hypotheses(self) -> None:
        """Adds up hypotheses of the beam that have the same labels, into the better one of two."""
        beam = self.beam
        live = beam.score > -math.inf
        same = (beam.row[:, :, None] == beam.row[:, None, :]) & live[:, :, None] & live[:, None, :]
        b, k, m = same.triu(1).nonzero(as_tuple=True)
        if len(b):
            beam.score[b, k] = torch.logaddexp(beam.score[b, k], beam.score[b, m])
            beam.score[b, m] = -math.inf

    def keep_best(self, cells: torch.Tensor) -> None:
        """The next beam: the best K of (B, K, V) expansions."""
        beam, (batch, width, vocab) = self.beam, cells.shape
        score, index = cells.view(batch, width * vocab).topk(width)
        if self.options.score_margin < math.inf:
            score = score.masked_fill(score < score[:, :1] - self.options.score_margin, -math.inf)
        source, label = index // vocab, index % vocab
        is_label = label > 0
        origin, emitted = source, label
        if self.by_label is not None:
            # The best alignment of a blank expansion may be its parent's by the last label.
            other = self.by_label.gather(1, source)
            swapped = ~is_label & (other >= 0)
            origin = torch.where(swapped, other, source)
            emitted = torch.where(swapped, beam.last.gather(1, source), label)
            self.by_label = None
        cell = origin * vocab + emitted
        history = beam.row.gather(1, source)
        new = is_label & (score > -math.inf)
        row = history.clone()
        row[new] = self.histories.extend(history[new], label[new])
        lms = [beam.source, beam.target]
        if self.fused:
            lms = [total.gather(1, source) for total in lms]
            for total, table in zip(lms, (self.histories.source, self.histories.target), strict=True):
                total[new] += table[history[new], label[new]]
        self.trace.add(origin, emitted, self.emission.view(batch, -1).gather(1, cell))
        self.beam = Beam(
            score=score,
            best=beam.best.gather(1, origin) + self.step.view(batch, -1).gather(1, cell),
            row=row,
            parent=torch.where(is_label, history, beam.parent.gather(1, source)),
            last=torch.where(is_label, label, beam.last.gather(1, source)),
            length=beam.length.gather(1, source) + is_label,
            symbols=torch.where(emitted > 0, beam.symbols.gather(1, origin) + 1, 0),
            source=lms[0],
            target=lms[1],
        )
        self._clear_histories()

    def _clear_histories(self) -> None:
        live = self.beam.score > -math.inf
        if live.any() and (place := self.histories.clear(self.beam.row[live])) is not None:
            self.beam.row = place[self.beam.row].clamp(min=0)  # unused places may hold any row that there is
            self.beam.parent = torch.where(self.beam.parent >= 0, place[self.beam.parent], -1)

    def finish(self, ends: torch.Tensor, score: torch.Tensor, steps: int) -> None:
        """Sets hypotheses aside that have left the last frame.

        Args:
            ends: (B, K) which.
            score: (B, K) with the last blank.
            steps: steps that the trace holds for them.
        """
        beam = self.beam
        b, k = (ends & (score > -math.inf)).nonzero(as_tuple=True)
        if not len(b):
            return
        columns = (b, k, score[b, k], beam.length[b, k], beam.source[b, k], beam.target[b, k])
        for utterance, place, total, length, source, target in zip(*(c.tolist() for c in columns), strict=True):
            parts = self.parts(total - self.bonus(length, source, target), length, source, target)
            self.finals[utterance].append(Final(total, length, steps, place, parts))
        for utterance in set(b.tolist()):
            ranked = sorted((final.score for final in self.finals[utterance]), reverse=True)
            if len(ranked) >= self.options.nbest:
                self.negligible[utterance] = ranked[self.options.nbest - 1] - NEGLIGIBLE

    def drop_settled(self) -> None:
        """Ends the search of utterances whose beam is too improbable to enter or reorder the n-best list."""
        settled = self.beam.score.logsumexp(dim=1) < self.negligible
        self.beam.score[settled] = -math.inf
