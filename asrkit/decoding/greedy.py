"""Batched greedy search."""

from __future__ import annotations

import torch

from asrkit.decoding.frames import Frames
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.transducer import Transducer
from asrkit.symbols import BLANK_ID


class GreedySearch:
    """Takes the best arc at every node, for all utterances together, each at its own frame.

    It ends after at most T'·(max_symbols + 1) steps.

    Args:
        model: the transducer.
        batch: B.
        frame_shift_s: seconds between encoder frames.
        max_symbols: most labels at one frame.
        blank_penalty: subtracted from blank's logit.
    """

    @torch.inference_mode()
    def __init__(
        self, model: Transducer, batch: int, *, frame_shift_s: float, max_symbols: int = 5, blank_penalty: float = 0.0
    ) -> None:
        self.model, self.frame_shift_s = model, frame_shift_s
        self.max_symbols, self.blank_penalty = max_symbols, blank_penalty
        self.frames = Frames(model, batch)
        blanks = torch.full((batch,), BLANK_ID, device=model.device)
        out, self.state = model.predictor.step(blanks, model.predictor.initial_state(batch))
        self.predictor_proj = model.joiner.predictor_proj(out)
        self.frame, self.symbols = (torch.zeros(batch, dtype=torch.int64, device=model.device) for _ in range(2))
        """(B,) each utterance's frame, and its number of labels there."""
        self.scores = [0.0] * batch
        self.labels: list[list[tuple[int, int, float]]] = [[] for _ in range(batch)]
        """(label, frame, log probability) of each utterance."""

    @torch.inference_mode()
    def accept(self, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, last: bool = True) -> None:
        """Takes more frames, (B, n, D) of which (B,) are real, and decodes them."""
        self.frames.add(encoder_out, encoder_lens, last)
        joiner, predictor = self.model.joiner, self.model.predictor
        while True:
            live = (self.frame < self.frames.received).nonzero().squeeze(1)
            if live.numel() == 0:
                break
            encoder_proj = self.frames.projection[live, self.frame[live] - self.frames.first]
            log_probs = joiner.log_probs(encoder_proj, self.predictor_proj[live], self.blank_penalty)
            best, token = log_probs.max(dim=-1)
            columns = (live.tolist(), token.tolist(), self.frame[live].tolist(), best.tolist())
            for b, k, t, p in zip(*columns, strict=True):
                self.scores[b] += p
                if k != BLANK_ID:
                    self.labels[b].append((k, t, p))
            is_label = token != BLANK_ID
            emitted = live[is_label]
            self.symbols[live] = torch.where(is_label, self.symbols[live] + 1, 0)
            moves = ~is_label | (self.symbols[live] >= self.max_symbols)
            self.frame[live[moves]] += 1
            self.symbols[live[moves]] = 0
            if emitted.numel():
                out, after = predictor.step(token[is_label], tuple(part[emitted] for part in self.state))
                self.predictor_proj[emitted] = joiner.predictor_proj(out)
                for part, new in zip(self.state, after, strict=True):
                    part[emitted] = new
        if len(self.frame):
            self.frames.forget(int(self.frame.min()))

    def results(self) -> list[list[Hypothesis]]:
        """One hypothesis per utterance; its score is the log probability of its alignment."""
        return [
            [
                Hypothesis(
                    tokens=[k for k, _, _ in labels],
                    score=score,
                    token_times=[t * self.frame_shift_s for _, t, _ in labels],
                    token_scores=[p for _, _, p in labels],
                    parts={"am": score},
                )
            ]
            for labels, score in zip(self.labels, self.scores, strict=True)
        ]


def greedy_search(
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    *,
    frame_shift_s: float,
    max_symbols: int = 5,
    blank_penalty: float = 0.0,
) -> list[Hypothesis]:
    """:class:`GreedySearch` over all frames (B, T', D) of (B,) at once: one hypothesis per utterance."""
    search = GreedySearch(
        model, len(encoder_lens), frame_shift_s=frame_shift_s, max_symbols=max_symbols, blank_penalty=blank_penalty
    )
    search.accept(encoder_out, encoder_lens)
    return [nbest[0] for nbest in search.results()]
