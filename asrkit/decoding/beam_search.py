"""Alignment-length synchronous beam search.

Saon et al. 2020 ("Alignment-length synchronous decoding for RNN transducer", ICASSP): at step i every
hypothesis of the beam has the same alignment length t + u = i, where t frames have been left by blank and u
labels emitted. So all hypotheses of a beam are compared after equally many decisions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.predictor import State
from asrkit.models.transducer import Transducer

BLANK_ID = 0
Labels = tuple[int, ...]
NEGLIGIBLE = 20.0
"""A beam whose whole probability is e^-20 of the worst kept result's cannot change the results any more."""


@dataclass(frozen=True)
class Entry:
    """A hypothesis in the beam: a label sequence with the probability of its alignments so far."""

    labels: Labels
    score: float
    frames: tuple[int, ...]
    """Frame of each label, in the best of the merged alignments."""
    label_scores: tuple[float, ...]
    best: float
    """Score of that best alignment."""


@dataclass(frozen=True)
class History:
    """The predictor after a label sequence: its projection (J,) for the joiner, and its state."""

    projection: torch.Tensor
    state: State


def log_add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    low, high = (a, b) if a < b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


@torch.inference_mode()
def beam_search(
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    *,
    frame_shift_s: float,
    beam: int = 8,
    nbest: int = 1,
    max_labels_per_frame: float = 1.0,
) -> list[list[Hypothesis]]:
    """n-best lists of a batch. Each utterance is searched by itself, so its batch cannot change its result.

    Args:
        model: the transducer.
        encoder_out: (B, T', D).
        encoder_lens: (B,).
        frame_shift_s: seconds between encoder frames.
        beam: hypotheses kept at each step.
        nbest: most hypotheses returned for an utterance.
        max_labels_per_frame: hypotheses have at most this many labels a frame, so a search of T' frames
            ends after T' + max_labels_per_frame · T' steps.

    Returns:
        For each utterance its hypotheses, best first; scores are sums over all alignments that the beam
        kept, in log probability.
    """
    encoder_proj = model.joiner.encoder_proj(encoder_out)
    found = []
    for b, time in enumerate(encoder_lens.tolist()):
        max_labels = math.ceil(max_labels_per_frame * time)
        found.append(_search_utterance(model, encoder_proj[b, :time], beam, nbest, max_labels, frame_shift_s))
    return found


def _search_utterance(
    model: Transducer, encoder_proj: torch.Tensor, beam: int, nbest: int, max_labels: int, frame_shift_s: float
) -> list[Hypothesis]:
    """The search over (T', J) projected frames."""
    time = encoder_proj.shape[0]
    entries = [Entry((), 0.0, (), (), 0.0)]
    histories: dict[Labels, History] = {(): _first_history(model, encoder_proj)}
    finished: dict[Labels, Entry] = {}
    for i in range(time + max_labels):
        frames = torch.tensor([i - len(entry.labels) for entry in entries], device=encoder_proj.device)
        projections = torch.stack([histories[entry.labels].projection for entry in entries])
        logits = model.joiner.combine(encoder_proj[frames], projections)
        candidates = _expand(
            entries, torch.log_softmax(logits.to(_at_least_float32(logits)), dim=-1), i, beam, max_labels
        )
        live: dict[Labels, Entry] = {}
        for entry in candidates:
            at_end = i + 1 - len(entry.labels) >= time  # the last frame has been left by blank
            _merge(finished if at_end else live, entry)
        entries = sorted(live.values(), key=lambda entry: (-entry.score, entry.labels))[:beam]
        if not entries or _settled(entries, finished, nbest):
            break
        _extend_histories(model, histories, entries)
        alive = {entry.labels for entry in entries} | {entry.labels[:-1] for entry in entries}
        histories = {labels: history for labels, history in histories.items() if labels in alive}
    ranked = sorted(finished.values(), key=lambda entry: (-entry.score, entry.labels))
    return [_to_hypothesis(entry, frame_shift_s) for entry in ranked[:nbest]]


def _at_least_float32(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _expand(entries: list[Entry], log_probs: torch.Tensor, i: int, beam: int, max_labels: int) -> list[Entry]:
    """Each entry's blank expansion and its ``beam`` best labels, from log_probs (K, V)."""
    number = min(beam, log_probs.shape[1] - 1)
    blank_scores = log_probs[:, BLANK_ID].tolist()
    label_scores, labels = log_probs[:, BLANK_ID + 1 :].topk(number, dim=-1)
    candidates = []
    for entry, blank, scores, tokens in zip(entries, blank_scores, label_scores.tolist(), labels.tolist(), strict=True):
        candidates.append(replace(entry, score=entry.score + blank, best=entry.best + blank))
        if len(entry.labels) >= max_labels:
            continue
        frame = i - len(entry.labels)
        for score, token in zip(scores, tokens, strict=True):
            candidates.append(
                Entry(
                    (*entry.labels, token + BLANK_ID + 1),
                    entry.score + score,
                    (*entry.frames, frame),
                    (*entry.label_scores, score),
                    entry.best + score,
                )
            )
    return candidates


def _merge(into: dict[Labels, Entry], entry: Entry) -> None:
    """Adds the probability of an equal label sequence; times are those of the better alignment."""
    other = into.get(entry.labels)
    if other is None:
        into[entry.labels] = entry
        return
    better = entry if entry.best > other.best else other
    into[entry.labels] = replace(better, score=log_add(entry.score, other.score))


def _settled(entries: list[Entry], finished: dict[Labels, Entry], nbest: int) -> bool:
    """Whether all that is left in the beam is too improbable to enter or reorder the n-best list."""
    if len(finished) < nbest:
        return False
    mass = -math.inf
    for entry in entries:
        mass = log_add(mass, entry.score)
    return mass < sorted((e.score for e in finished.values()), reverse=True)[nbest - 1] - NEGLIGIBLE


def _first_history(model: Transducer, encoder_proj: torch.Tensor) -> History:
    token = torch.full((1,), BLANK_ID, device=encoder_proj.device)
    out, state = model.predictor.step(token, model.predictor.initial_state(1))
    return History(model.joiner.predictor_proj(out)[0], state)


def _extend_histories(model: Transducer, histories: dict[Labels, History], entries: list[Entry]) -> None:
    """Runs the predictor once, for the label sequences that have not been seen yet."""
    new = [entry.labels for entry in entries if entry.labels not in histories]
    if not new:
        return
    parents = [histories[labels[:-1]].state for labels in new]
    h, c = (torch.cat([state[k] for state in parents], dim=1) for k in (0, 1))
    tokens = torch.tensor([labels[-1] for labels in new], device=h.device)
    out, (h, c) = model.predictor.step(tokens, (h, c))
    projections = model.joiner.predictor_proj(out)
    for n, labels in enumerate(new):
        histories[labels] = History(projections[n], (h[:, n : n + 1], c[:, n : n + 1]))


def _to_hypothesis(entry: Entry, frame_shift_s: float) -> Hypothesis:
    return Hypothesis(
        tokens=list(entry.labels),
        score=entry.score,
        token_times=[frame * frame_shift_s for frame in entry.frames],
        token_scores=list(entry.label_scores),
        parts={"am": entry.score},
    )
