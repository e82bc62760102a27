"""Beam search over a graph with k2, if it is installed. Imports only torch and k2.

It is frame-synchronous, with at most one label per frame, over any acceptor of label sequences: the trivial graph
accepts all, a lexicon or n-gram graph (an ``Fsa`` whose labels are symbols) accepts and scores its own. As in icefall's
``fast_beam_search``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import k2
import torch


@dataclass(frozen=True)
class K2Options:
    """Settings of k2's search."""

    beam: float = 20.0
    """Hypotheses that are worse than the best by more than this are dropped."""
    max_contexts: int = 64
    """Most label histories per stream and frame."""
    max_states: int = 256
    """Most states per stream and frame."""


@torch.no_grad()
def k2_lattice(
    decode: Callable[[torch.Tensor], torch.Tensor],
    join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    encoder_proj: torch.Tensor,
    encoder_lens: torch.Tensor,
    *,
    context_size: int,
    vocab_size: int,
    graph: k2.Fsa | None = None,
    options: K2Options | None = None,
) -> k2.Fsa:
    """The lattices of a batch.

    Args:
        decode: the stateless predictor with its projection, contexts (N, context) to (N, J).
        join: projected outputs (N, J) each to logits (N, V).
        encoder_proj: (B, T', J).
        encoder_lens: (B,).
        context_size: labels that the predictor sees.
        vocab_size: V; blank is 0.
        graph: acceptor of label sequences; None accepts all.
        options: see :class:`K2Options`.

    Returns:
        An FsaVec of B lattices whose labels are symbols (blank included) and whose scores are log probabilities.
    """
    options = options or K2Options()
    device = encoder_proj.device
    graph = k2.trivial_graph(vocab_size - 1, device) if graph is None else graph.to(device)
    config = k2.RnntDecodingConfig(
        vocab_size=vocab_size,
        decoder_history_len=context_size,
        beam=options.beam,
        max_contexts=options.max_contexts,
        max_states=options.max_states,
    )
    streams = k2.RnntDecodingStreams([k2.RnntDecodingStream(graph) for _ in encoder_lens], config)
    # k2 1.23 gives the last frame's arcs no scores, so a blank frame is added to each utterance.
    padded = torch.nn.functional.pad(encoder_proj, (0, 0, 0, 1))
    only_blank = torch.full((vocab_size,), -1e10, device=encoder_proj.device)
    only_blank[0] = 0.0
    for t in range(padded.shape[1]):
        shape, contexts = streams.get_contexts()
        utterance = shape.row_ids(1).long()  # the stream of each context
        predicted = decode(contexts.long())
        log_probs = torch.log_softmax(join(padded[utterance, t], predicted), dim=-1)
        ended = (t >= encoder_lens)[utterance]
        streams.advance(torch.where(ended[:, None], only_blank, log_probs))
    streams.terminate_and_flush_to_streams()
    return streams.format_output((encoder_lens + 1).tolist())


def k2_best_paths(lattice: k2.Fsa) -> list[tuple[list[int], float]]:
    """Labels and score of the most probable path of each lattice."""
    best = k2.shortest_path(lattice, use_double_scores=True)
    scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
    labels: list[list[int]] = [[label for label in path if label > 0] for path in _labels(best)]
    return list(zip(labels, scores, strict=True))


def k2_nbest(lattice: k2.Fsa, num_paths: int) -> list[list[tuple[list[int], float]]]:
    """Distinct label sequences among ``num_paths`` random paths of each lattice, best first.

    A sequence's score is that of its best sampled path.
    """
    paths = k2.random_paths(lattice, num_paths=num_paths, use_double_scores=True)
    symbols = k2.ragged.index(lattice.labels.contiguous(), paths)  # [utterance][path][symbol]
    arc_scores = lattice.scores
    lists = []
    for utterance_paths, arcs in zip(symbols.tolist(), paths.tolist(), strict=True):
        best: dict[tuple[int, ...], float] = {}
        for path, path_arcs in zip(utterance_paths, arcs, strict=True):
            labels = tuple(label for label in path if label > 0)
            score = float(arc_scores[torch.tensor(path_arcs)].double().sum()) if path_arcs else 0.0
            best[labels] = max(score, best.get(labels, float("-inf")))
        ranked = sorted(best.items(), key=lambda item: -item[1])
        lists.append([(list(labels), score) for labels, score in ranked])
    return lists


def _labels(best: k2.Fsa) -> list[list[int]]:
    if best.shape[0] is None:
        best = k2.create_fsa_vec([best])
    return [best[n].labels.tolist() for n in range(best.shape[0])]
