"""Beam search of a transducer, batched over utterances and hypotheses.

Alignment-length synchronous (Saon et al. 2020, "Alignment-length synchronous decoding for RNN transducer",
ICASSP): at step i every hypothesis has the same alignment length t + u = i, where t frames have been left by
blank and u labels emitted, so that all are compared after equally many decisions. The time-synchronous
"modified" search (Kang et al. 2023, arXiv 2211.00484) emits at most one label a frame; its hypotheses all stand at
the same frame.

Shape letters: B utterances, N of them that have not been left out, K hypotheses of an utterance, V symbols, J width
of the joiner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch.nn import functional as F

from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.full_sum import with_sums
from asrkit.decoding.greedy_path import GreedyPath
from asrkit.decoding.histories import Histories
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.traceback import Final, Trace, hypotheses
from asrkit.models.transducer import Transducer

BLANK_ID = 0
GREEDY_SYMBOLS = 5
"""Most labels at one frame of greedy's hypothesis where the search sets no bound."""
LONGEST_S = 160.0
"""Seconds of the longest utterance whose hypotheses are kept in memory for full sums, and greedy's followed."""
KEPT = 0.75
"""A batch is made smaller where no more of its utterances go on."""
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
    """Whether the alignment-length synchronous search scores what it found, and greedy's hypothesis, by all
    alignments near those found."""


@dataclass
class Beam:
    """The hypotheses of all utterances, (N, K) each; unused places have the score -inf."""

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
        For each utterance its hypotheses, best first. Scores are log probabilities summed over all alignments near
        the one found (see :func:`full_sums`), plus fusion; without ``full_sum``, and of utterances that are too long
        for it, over the alignments that the beam kept. An utterance without frames has the empty hypothesis.
    """
    options = options or BeamOptions()
    most = torch.ceil(encoder_lens.double() * options.max_labels_per_frame).long()
    search = _Search(model, encoder_out, encoder_lens, most, options, fusion)
    short = encoder_lens * frame_shift_s <= LONGEST_S
    if options.full_sum and short.any():
        search.greedy = GreedyPath(encoder_lens, torch.where(short, most, -1), options.max_symbols or GREEDY_SYMBOLS)
    for i in range(int((encoder_lens + most).max()) if len(encoder_lens) else 0):
        search.tidy()
        if not len(search.utterance):
            break
        frame = i - search.beam.length
        cells = search.scores(frame)
        search.add_equal_labels(cells)
        ends = frame == search.last_frame
        search.finish(ends, cells[:, :, BLANK_ID], i)
        cells[:, :, BLANK_ID].masked_fill_(ends, -math.inf)
        search.keep_best(cells)
        search.drop_settled()
    ranked = [sorted(finals, key=lambda final: -final.score) for finals in search.finals]
    ranked = [_within_reach(finals, options) if options.full_sum else finals[: options.nbest] for finals in ranked]
    found = hypotheses(ranked, search.trace, synchronous=False, frame_shift_s=frame_shift_s)
    if search.greedy is not None:
        found = _with_full_sums(search, search.greedy, found, frame_shift_s)
    return [nbest[: options.nbest] for nbest in found]


def _within_reach(finals: list[Final], options: BeamOptions) -> list[Final]:
    """The results of an utterance, best first, that alignments outside the beam may still bring into its list."""
    if not finals:
        return []
    least = finals[: options.nbest][-1].score - REACH
    return [final for final in finals[: max(options.nbest, options.beam)] if final.score >= least]


def _with_full_sums(
    search: _Search, path: GreedyPath, found: list[list[Hypothesis]], shift_s: float
) -> list[list[Hypothesis]]:
    """The lists with greedy's hypotheses in them, by full sums; as they are where an utterance is too long for it."""
    summable = ((path.encoder_lens > 0) & (path.most >= 0)).tolist()
    ranked: list[list[Hypothesis]] = list(found)
    candidates: list[tuple[int, Hypothesis]] = []
    for b, greedy in enumerate(path.hypotheses(shift_s)):
        if summable[b]:
            candidates += [(b, h) for h in found[b]]
            if greedy is not None and greedy.tokens not in [h.tokens for h in found[b]]:
                candidates.append((b, greedy))
            ranked[b] = []
    summed = with_sums(candidates, search.emit, search.encoder_proj, path.encoder_lens, search.histories, shift_s)
    for (b, _), h in zip(candidates, summed, strict=True):
        ranked[b].append(replace(h, score=h.parts["am"] + search.bonus(h.parts)))
    return [sorted(nbest, key=lambda h: -h.score) for nbest in ranked]


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
    search = _Search(model, encoder_out, encoder_lens, encoder_lens, options, fusion)
    for i in range(int(encoder_lens.max()) if len(encoder_lens) else 0):
        search.tidy()
        if not len(search.utterance):
            break
        frame = torch.full_like(search.beam.length, i)
        ends = frame == search.last_frame
        search.keep_best(search.scores(frame))
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
        most: torch.Tensor,
        options: BeamOptions,
        fusion: Fusion | None,
    ) -> None:
        self.model, self.options = model, options
        self.weights = fusion.weights if fusion is not None else FusionWeights()
        self.fused = fusion is not None
        self.encoder_proj = model.joiner.encoder_proj(encoder_out)  # (B, T', J)
        self.histories = Histories(model, fusion)
        self.trace = Trace()
        self.greedy: GreedyPath | None = None
        """Followed beside the beam."""
        self.utterance = torch.arange(len(encoder_lens), device=encoder_out.device)
        """(N,) numbers of the utterances that have not been left out, as in all that follows."""
        self.last_frame, self.most = encoder_lens[:, None] - 1, most[:, None]
        """(N, 1) the last frame of each, and most labels of it."""
        self.by_label: torch.Tensor | None = None
        """(N, K) from whose expansion by a label the best alignment of a blank expansion comes, or -1."""
        shape, device = (len(encoder_lens), options.beam), encoder_out.device
        dtype = torch.promote_types(self.encoder_proj.dtype, torch.float32)
        whole = torch.zeros(shape, dtype=torch.int64, device=device)
        score = torch.full(shape, -math.inf, dtype=dtype, device=device)
        score[encoder_lens > 0, 0] = 0.0
        self.beam = Beam(score, score.clone(), whole, whole - 1, whole, whole, whole)
        # An utterance without frames is done.
        self.finals: list[list[Final]] = [[] if frames else [Final()] for frames in encoder_lens.tolist()]
        self.negligible = torch.full(shape[:1], -math.inf, dtype=dtype, device=device)

    def tidy(self) -> None:
        """Leaves out utterances that have no more arcs to take, and label histories, once there are enough of them."""
        going_on = (self.beam.score > -math.inf).any(dim=1)
        if self.greedy is not None:
            going_on |= self.greedy.goes_on()[self.utterance]
        if int(going_on.sum()) <= KEPT * len(going_on):
            whole = self.beam
            self.beam = Beam(**{field.name: getattr(whole, field.name)[going_on] for field in fields(whole)})
            self.utterance, self.negligible = self.utterance[going_on], self.negligible[going_on]
            self.last_frame, self.most = self.last_frame[going_on], self.most[going_on]
        if self.histories.crowded and len(self.utterance):
            self._clear_histories()

    def _clear_histories(self) -> None:
        rows = self.beam.row[self.beam.score > -math.inf]
        if self.greedy is not None:
            rows = torch.cat([rows, self.greedy.row[self.greedy.goes_on()]])
        place = self.histories.clear(rows)
        # Unused places may hold any row that there is.
        self.beam.row = place[self.beam.row].clamp(min=0)
        self.beam.parent = torch.where(self.beam.parent >= 0, place[self.beam.parent], -1)
        if self.greedy is not None:
            self.greedy.row = place[self.greedy.row].clamp(min=0)

    def scores(self, frame: torch.Tensor) -> torch.Tensor:
        """Scores (N, K, V) of every expansion of every hypothesis, which stands at ``frame`` (N, K)."""
        beam, options, greedy = self.beam, self.options, self.greedy
        at, rows = self._encoder_rows(frame).flatten(), beam.row.flatten()
        if greedy is not None:
            at = torch.cat([at, self._encoder_rows(greedy.frame[self.utterance, None]).flatten()])
            rows = torch.cat([rows, greedy.row[self.utterance]])
        encoder_proj = F.embedding(at, self.encoder_proj.flatten(0, 1))
        log_probs = self.emit(encoder_proj, F.embedding(rows, self.histories.projection))
        self.emission = arcs = log_probs[: frame.numel()].view(*frame.shape, -1)
        self.of_greedy = log_probs[frame.numel() :]
        if self.fused:
            arcs = arcs + F.embedding(beam.row, self.histories.bonus)
        full = beam.length >= self.most
        if options.max_symbols:
            full = full | (beam.symbols >= options.max_symbols)
        if full.any():
            arcs = arcs.clone()
            arcs[..., 1:].masked_fill_(full[:, :, None], -math.inf)
        if 0 < options.expand_beam < arcs.shape[2] - 1:
            least = arcs[..., 1:].topk(options.expand_beam).values[..., -1:]
            arcs = torch.cat([arcs[..., :1], arcs[..., 1:].masked_fill(arcs[..., 1:] < least, -math.inf)], dim=-1)
        self.arcs = arcs
        return beam.score[:, :, None] + arcs

    def _encoder_rows(self, frame: torch.Tensor) -> torch.Tensor:
        """Where the frames (N, ...) are among all utterances'; unused places stand anywhere."""
        times = self.encoder_proj.shape[1]
        return self.utterance[:, None] * times + frame.clamp(0, times - 1)

    def emit(self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor) -> torch.Tensor:
        """Log probabilities (..., V) of the transducer, from projections (..., J) that broadcast."""
        return self.model.joiner.log_probs(encoder_proj, predictor_proj, self.options.blank_penalty)

    def bonus(self, parts: dict[str, float]) -> float:
        """What fusion adds to a score of these parts."""
        return self.weights.bonus(parts["source_lm"], parts["target_lm"], parts["length"]) if self.fused else 0.0

    def add_equal_labels(self, cells: torch.Tensor) -> None:
        """Adds up a hypothesis' blank expansion and its parent's expansion by its last label: the same labels."""
        beam, live = self.beam, self.beam.score > -math.inf
        match = beam.parent[:, :, None] == beam.row[:, None, :]  # (N, K, K): the second is the first's parent
        match &= live[:, None, :] & live[:, :, None]
        b, k, m = match.nonzero(as_tuple=True)
        if not len(b):
            return
        label = beam.last[b, k]
        cells[b, k, BLANK_ID] = torch.logaddexp(cells[b, k, BLANK_ID], cells[b, m, label])
        cells[b, m, label] = -math.inf
        # Times are those of the better alignment.
        better = beam.best[b, m] + self.arcs[b, m, label] > beam.best[b, k] + self.arcs[b, k, BLANK_ID]
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
        """The next beam: the best K of (N, K, V) expansions."""
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
        if self.greedy is not None:
            self.greedy.advance(self.of_greedy, self.utterance, self.histories)
        self.trace.add(self.utterance, origin, emitted, self.emission.view(batch, -1).gather(1, cell))
        self.beam = Beam(
            score=score,
            best=beam.best.gather(1, origin) + self.arcs.view(batch, -1).gather(1, cell),
            row=row,
            parent=torch.where(is_label, history, beam.parent.gather(1, source)),
            last=torch.where(is_label, label, beam.last.gather(1, source)),
            length=beam.length.gather(1, source) + is_label,
            symbols=torch.where(emitted > 0, beam.symbols.gather(1, origin) + 1, 0),
        )

    def finish(self, ends: torch.Tensor, score: torch.Tensor, steps: int) -> None:
        """Sets hypotheses aside that have left the last frame.

        Args:
            ends: (N, K) which.
            score: (N, K) with the last blank.
            steps: steps that the trace holds for them.
        """
        beam = self.beam
        b, k = (ends & (score > -math.inf)).nonzero(as_tuple=True)
        if not len(b):
            return
        utterances, parts = self.utterance[b].tolist(), self.histories.parts(beam.row[b, k])
        columns = (k.tolist(), score[b, k].tolist(), beam.length[b, k].tolist())
        for utterance, place, total, length, lms in zip(utterances, *columns, parts, strict=True):
            am = total - self.bonus(lms)
            self.finals[utterance].append(Final(total, length, steps, place, {"am": am} | lms))
        for row, utterance in {*zip(b.tolist(), utterances, strict=True)}:
            ranked = sorted((final.score for final in self.finals[utterance]), reverse=True)
            if len(ranked) >= self.options.nbest:
                self.negligible[row] = ranked[self.options.nbest - 1] - NEGLIGIBLE

    def drop_settled(self) -> None:
        """Ends the search of utterances whose beam is too improbable to enter or reorder the n-best list."""
        settled = self.beam.score.amax(dim=1) + math.log(self.options.beam) < self.negligible
        self.beam.score[settled] = -math.inf
