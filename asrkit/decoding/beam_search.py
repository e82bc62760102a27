"""Beam search of a transducer, batched over utterances and hypotheses.

Alignment-length synchronous (Saon et al. 2020, "Alignment-length synchronous decoding for RNN transducer",
ICASSP): at step i every hypothesis has the same alignment length t + u = i, where t frames have been left by
blank and u labels emitted, so that all are compared after equally many decisions. The time-synchronous
"modified" search (Kang et al. 2023, arXiv 2211.00484) emits at most one label per frame; its hypotheses are all
at the same frame.

A search is incremental: ``accept`` takes encoder frames as they arrive and searches them, ``results`` returns the
n-best lists after the last. :func:`beam_search` and :func:`modified_beam_search` do this in one call.

Shape letters: B utterances, N of them whose search continues, K hypotheses of an utterance, V symbols, J width of the
joiner.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.nn import functional as F

from asrkit.decoding.beam import (
    Beam,
    BeamOptions,
    expand,
    first_beam,
    merge_equal_hypotheses,
    merge_equal_labels,
    select,
    without_blank,
)
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.frames import ENDLESS, Frames
from asrkit.decoding.full_sum import with_sums
from asrkit.decoding.greedy_path import GreedyPath
from asrkit.decoding.histories import Histories
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.traceback import Final, Trace, hypotheses
from asrkit.models.transducer import Transducer

GREEDY_SYMBOLS = 5
"""Most labels at one frame of greedy's hypothesis if the search sets no bound."""
MAX_SUMMED_S = 160.0
"""Seconds of the longest utterance with greedy's hypothesis and full sums, which need all its frames."""
SHRINK_SHARE = 0.75
"""A batch is shrunk when at most this share of its utterances continues."""
RERANK_MARGIN = 2.0
"""Largest difference of two hypotheses' gains from alignments outside the beam; it was at most 1.2, with a poorly
trained model at beam 4."""
NEGLIGIBLE = 20.0
"""A beam with a total probability of e^-20 of the worst kept result cannot change the results."""


class OpenSearch:
    """The common part of both searches: frames, label histories, beam and finished hypotheses.

    Args:
        model: the transducer.
        batch: B.
        frame_shift_s: seconds between encoder frames.
        options: of the search.
        fusion: language models to add.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Transducer,
        batch: int,
        *,
        frame_shift_s: float,
        options: BeamOptions | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        self.model, self.options, self.frame_shift_s = model, options or BeamOptions(), frame_shift_s
        self.weights = fusion.weights if fusion is not None else FusionWeights()
        self.fused = fusion is not None
        self.frames = Frames(model, batch)
        self.histories = Histories(model, fusion)
        self.trace = Trace()
        self.greedy: GreedyPath | None = None
        """Greedy's hypothesis, an additional lane next to the beam."""
        self.steps = self.most_steps = 0
        self.utterance = torch.arange(batch, device=model.device)
        """(N,) numbers of the utterances whose search continues."""
        self.most, self.last_frame = (torch.zeros(batch, 1, dtype=torch.int64, device=model.device) for _ in range(2))
        """(N, 1) most labels of each, and its last frame."""
        self.beam: Beam | None = None
        self.finals: list[list[Final]] = [[] for _ in range(batch)]
        self.negligible = torch.full((batch,), -math.inf, device=model.device)

    @torch.inference_mode()
    def accept(self, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, last: bool = True) -> None:
        """Takes more frames and searches them.

        The newest frame waits until it is known whether it is the last. All utterances advance together, so
        one that waits for frames delays the others.

        Args:
            encoder_out: (B, n, D).
            encoder_lens: (B,) number of real frames.
            last: whether these are the last frames of all utterances.
        """
        self.frames.add(encoder_out, encoder_lens, last)
        received = self.frames.received
        if self.beam is None:
            dtype = torch.promote_types(self.frames.projection.dtype, torch.float32)
            self.beam = first_beam(len(received), self.options.beam, dtype, received.device)
            self.negligible = self.negligible.to(dtype)
        if last:  # an utterance without frames is done
            self.beam = self.beam.without((received == 0)[self.utterance, None])
            for b in (received == 0).nonzero().flatten().tolist():
                self.finals[b] = [Final()]
        self.last_frame = self.frames.ends[self.utterance, None] - 1
        self._bound()
        while self.steps < self.most_steps:
            self._shrink()
            if not len(self.utterance) or not (last or self._all_have_frames()):
                break
            self._step()
            self.steps += 1
        if len(self.utterance) and not self._sums_frames():
            self.frames.forget(self._earliest_frame())

    def results(self) -> list[list[Hypothesis]]:
        """The n-best lists of the B utterances, after the last frames."""
        raise NotImplementedError

    def _bound(self) -> None:
        """Sets ``most`` and ``most_steps`` from the frames received."""
        raise NotImplementedError

    def _frame(self) -> torch.Tensor:
        """(N, K) frames of the hypotheses."""
        raise NotImplementedError

    def _step(self) -> None:
        """One step of all utterances."""
        raise NotImplementedError

    def _sums_frames(self) -> bool:
        """Whether the results need all frames."""
        return False

    def _earliest_frame(self) -> int:
        """The first frame that a lane needs."""
        assert self.beam is not None
        return int(torch.where(self.beam.live, self._frame(), self.frames.received.max()).min())

    def _all_have_frames(self) -> bool:
        """Whether the frames of all continuing lanes have arrived and are known not to be the last."""
        assert self.beam is not None
        newest = self.frames.received - 1
        waits = (self._frame() >= newest[self.utterance, None]) & self.beam.live
        if self.greedy is not None:
            late = self.greedy.frame >= newest
            waits = waits | (late & self.greedy.continues())[self.utterance, None]
        return not bool(waits.any())

    def _shrink(self) -> None:
        """Drops finished utterances and unreachable label histories, if there are many of them."""
        assert self.beam is not None
        continuing = self.beam.live.any(dim=1)
        if self.greedy is not None:
            continuing |= self.greedy.continues()[self.utterance]
        if int(continuing.sum()) <= SHRINK_SHARE * len(continuing):
            self.beam, self.utterance = self.beam.of(continuing), self.utterance[continuing]
            self.negligible, self.most = self.negligible[continuing], self.most[continuing]
            self.last_frame = self.last_frame[continuing]
        if self.histories.crowded and len(self.utterance):
            self._clear_histories()

    def _clear_histories(self) -> None:
        assert self.beam is not None
        beam = self.beam
        rows = beam.row[beam.live]
        if self.greedy is not None:
            rows = torch.cat([rows, self.greedy.row[self.greedy.continues()]])
        new_row = self.histories.clear(rows)
        # Unused places may contain any existing row.
        parent = torch.where(beam.parent >= 0, new_row[beam.parent], -1)
        self.beam = replace(beam, row=new_row[beam.row].clamp(min=0), parent=parent)
        if self.greedy is not None:
            self.greedy.row = new_row[self.greedy.row].clamp(min=0)

    def _emissions(self, beam: Beam, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities of the hypotheses (N, K, V) at ``frame`` (N, K), and of greedy's hypotheses (N, V)."""
        frames, rows = self.frames.rows(self.utterance, frame).flatten(), beam.row.flatten()
        if self.greedy is not None:
            lane = self.frames.rows(self.utterance, self.greedy.frame[self.utterance, None])
            frames, rows = torch.cat([frames, lane.flatten()]), torch.cat([rows, self.greedy.row[self.utterance]])
        encoder_proj = F.embedding(frames, self.frames.projection.flatten(0, 1))
        log_probs = self.emit(encoder_proj, F.embedding(rows, self.histories.projection))
        return log_probs[: frame.numel()].view(*frame.shape, -1), log_probs[frame.numel() :]

    def _bonus(self, beam: Beam) -> torch.Tensor | None:
        """(N, K, V) scores of each label by fusion."""
        return F.embedding(beam.row, self.histories.bonus) if self.fused else None

    def emit(self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor) -> torch.Tensor:
        """Log probabilities (..., V) of the transducer, from projections (..., J) that broadcast."""
        return self.model.joiner.log_probs(encoder_proj, predictor_proj, self.options.blank_penalty)

    def bonus(self, parts: dict[str, float]) -> float:
        """The part of fusion in a score with these parts."""
        return self.weights.bonus(parts["source_lm"], parts["target_lm"], parts["length"]) if self.fused else 0.0

    def _finish(self, beam: Beam, ends: torch.Tensor, score: torch.Tensor, steps: int) -> None:
        """Collects hypotheses that have left the last frame.

        Args:
            beam: the hypotheses.
            ends: (N, K) mask of those to collect.
            score: (N, K) including the last blank.
            steps: number of their steps in the trace.
        """
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


class AlignmentLengthSearch(OpenSearch):
    """The alignment-length synchronous search."""

    def _bound(self) -> None:
        received, ended = self.frames.received, self.frames.ended
        most = torch.ceil(received.double() * self.options.max_labels_per_frame).long()
        if not ended and self.options.max_symbols:
            most = received * self.options.max_symbols  # the final bound is unknown
        # Hypotheses with more labels must still leave their frames by blank.
        longest = _highest(self.beam.length.flatten()) if self.beam is not None else 0
        self.most, self.most_steps = most[self.utterance, None], _highest(received + most.clamp(min=longest))
        short = received * self.frame_shift_s <= MAX_SUMMED_S
        if self.options.full_sum and self.greedy is None and self.steps == 0 and short.any():
            self.greedy = GreedyPath(len(received), self.options.max_symbols or GREEDY_SYMBOLS, received.device)
        if self.greedy is not None:
            # Before the end, greedy's path has only its own bound; otherwise it would be dropped too early.
            allowed = most if ended else torch.full_like(most, ENDLESS)
            self.greedy.bound(self.frames.ends, torch.where(short, allowed, -1))

    def _sums_frames(self) -> bool:
        return self.greedy is not None and bool((self.greedy.most >= 0).any())

    def _frame(self) -> torch.Tensor:
        assert self.beam is not None
        return self.steps - self.beam.length

    def _step(self) -> None:
        assert self.beam is not None
        beam, frame = self.beam, self._frame()
        emission, greedy_log_probs = self._emissions(beam, frame)
        expansion = expand(beam, emission, self._bonus(beam), self.most, self.options)
        expansion = merge_equal_labels(beam, expansion)
        ends = frame == self.last_frame
        self._finish(beam, ends, expansion.blank, self.steps)
        expansion = without_blank(expansion, ends)
        beam, arcs = select(beam, expansion, self.histories.extend, self.options.score_margin)
        self.trace.add(self.utterance, arcs.origin, arcs.symbol, arcs.log_prob)
        if self.greedy is not None:
            self.greedy.advance(greedy_log_probs, self.utterance, self.histories)
        # A beam that is too improbable to change the n-best list is finished.
        settled = beam.score.amax(dim=1, keepdim=True) + math.log(self.options.beam) < self.negligible[:, None]
        self.beam = beam.without(settled)

    @torch.inference_mode()
    def results(self) -> list[list[Hypothesis]]:
        """For each utterance its hypotheses, best first, see :func:`beam_search`."""
        options = self.options
        ranked = [sorted(finals, key=lambda final: -final.score) for finals in self.finals]
        ranked = [_within_reach(finals, options) if options.full_sum else finals[: options.nbest] for finals in ranked]
        lists = hypotheses(ranked, self.trace, synchronous=False, frame_shift_s=self.frame_shift_s)
        if self.greedy is not None:
            lists = self._with_full_sums(self.greedy, lists)
        return [nbest[: options.nbest] for nbest in lists]

    def _with_full_sums(self, path: GreedyPath, lists: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
        """The lists with greedy's hypotheses, scored by full sums; those of too long utterances are unchanged."""
        shift_s = self.frame_shift_s
        summable = ((path.ends > 0) & (path.most >= 0)).tolist()
        ranked: list[list[Hypothesis]] = list(lists)
        candidates: list[tuple[int, Hypothesis]] = []
        for b, greedy in enumerate(path.hypotheses(shift_s)):
            if summable[b]:
                candidates += [(b, h) for h in lists[b]]
                if greedy is not None and greedy.tokens not in [h.tokens for h in lists[b]]:
                    candidates.append((b, greedy))
                ranked[b] = []
        summed = with_sums(candidates, self.emit, self.frames.projection, path.ends, self.histories, shift_s)
        for (b, _), h in zip(candidates, summed, strict=True):
            ranked[b].append(replace(h, score=h.parts["am"] + self.bonus(h.parts)))
        return [sorted(nbest, key=lambda h: -h.score) for nbest in ranked]


class ModifiedSearch(OpenSearch):
    """The time-synchronous search with at most one label per frame."""

    def _bound(self) -> None:
        self.options = replace(self.options, max_symbols=0)  # already one label per frame
        received = self.frames.received
        self.most, self.most_steps = received[self.utterance, None], _highest(received)

    def _frame(self) -> torch.Tensor:
        assert self.beam is not None
        return torch.full_like(self.beam.length, self.steps)

    def _step(self) -> None:
        assert self.beam is not None
        beam, frame = self.beam, self._frame()
        emission, _ = self._emissions(beam, frame)
        expansion = expand(beam, emission, self._bonus(beam), self.most, self.options)
        beam, arcs = select(beam, expansion, self.histories.extend, self.options.score_margin)
        self.trace.add(self.utterance, arcs.origin, arcs.symbol, arcs.log_prob)
        beam, ends = merge_equal_hypotheses(beam), frame == self.last_frame
        self._finish(beam, ends, beam.score, self.steps + 1)
        self.beam = beam.without(ends)

    def results(self) -> list[list[Hypothesis]]:
        """For each utterance its hypotheses, best first, see :func:`modified_beam_search`."""
        context = self.model.predictor.context_size
        ranked = [
            sorted(finals, key=lambda final: -final.score / (final.length + context))[: self.options.nbest]
            for finals in self.finals
        ]
        return hypotheses(ranked, self.trace, synchronous=True, frame_shift_s=self.frame_shift_s)


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
        the best (see :func:`asrkit.decoding.full_sum.full_sums`), plus fusion; without ``full_sum``, and for utterances
        too long for it, over the alignments that the beam kept. An utterance without frames has the empty hypothesis.
    """
    search = AlignmentLengthSearch(
        model, len(encoder_lens), frame_shift_s=frame_shift_s, options=options, fusion=fusion
    )
    search.accept(encoder_out, encoder_lens)
    return search.results()


def modified_beam_search(
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    *,
    frame_shift_s: float,
    options: BeamOptions | None = None,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """n-best lists by the time-synchronous search with at most one label per frame; see :func:`beam_search`.

    As in icefall and sherpa-onnx, equal label sequences are summed after pruning, and the list is ordered by score
    divided by the number of labels and blanks of the initial context; the scores themselves are not divided.
    """
    search = ModifiedSearch(model, len(encoder_lens), frame_shift_s=frame_shift_s, options=options, fusion=fusion)
    search.accept(encoder_out, encoder_lens)
    return search.results()


def _within_reach(finals: list[Final], options: BeamOptions) -> list[Final]:
    """The results of an utterance, best first, that may be in its list after full sums."""
    if not finals:
        return []
    least = finals[: options.nbest][-1].score - RERANK_MARGIN
    return [final for final in finals[: max(options.nbest, options.beam)] if final.score >= least]


def _highest(numbers: torch.Tensor) -> int:
    return int(numbers.max()) if len(numbers) else 0
