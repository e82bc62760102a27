"""k2's search against ours and against all alignments, in an environment that has k2 (tools/test_k2.sh)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

k2 = pytest.importorskip("k2", reason="k2 is not installed here; tools/test_k2.sh makes an environment for it")

from asrkit.decoding.beam import BeamOptions  # noqa: E402
from asrkit.decoding.beam_search import modified_beam_search  # noqa: E402
from asrkit.decoding.k2_search import K2Options, k2_best_paths, k2_lattice, k2_nbest  # noqa: E402
from asrkit.models.joiner import Joiner  # noqa: E402
from asrkit.models.predictor import StatelessPredictor  # noqa: E402
from asrkit.models.transducer import Transducer  # noqa: E402

VOCAB, DIM, FRAMES = 4, 8, 5
LENS = torch.tensor([5, 5, 3])


class Nothing(torch.nn.Module):
    """No encoder: these tests begin with its output."""


@pytest.fixture(scope="module")
def model() -> Transducer:
    torch.manual_seed(1)
    made = Transducer(Nothing(), StatelessPredictor(VOCAB, DIM, 2, 0.0), Joiner(DIM, DIM, DIM, VOCAB, "add"))  # type: ignore[arg-type]
    with torch.no_grad():
        made.joiner.out.weight.mul_(4)
    return made.eval()


@pytest.fixture(scope="module")
def encoder_out() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(len(LENS), FRAMES, DIM)


def lattice(model: Transducer, encoder_out: torch.Tensor, graph: Any = None) -> Any:
    def decode(contexts: torch.Tensor) -> torch.Tensor:
        out, _ = model.predictor.step(contexts[:, -1], (contexts[:, :-1],))
        return model.joiner.predictor_proj(out)

    proj = model.joiner.encoder_proj(encoder_out)
    return k2_lattice(
        decode,
        model.joiner.combine,
        proj,
        LENS,
        context_size=2,
        vocab_size=VOCAB,
        graph=graph,
        options=K2Options(beam=1e3, max_contexts=500, max_states=2000),
    )


def only(labels: list[int]) -> Any:
    """A graph that accepts one label sequence."""
    return k2.linear_fsa([labels])[0]


def path_scores(model: Transducer, x: torch.Tensor) -> dict[tuple[int, ...], float]:
    """log probability of every alignment of one utterance with at most one label a frame, by its symbols."""
    scores = {}
    for symbols in itertools.product(range(VOCAB), repeat=len(x)):
        total, history = 0.0, [0, 0]
        for t, symbol in enumerate(symbols):
            out, _ = model.predictor.step(torch.tensor(history[-1:]), (torch.tensor([history[-2:-1]]),))
            logits = model.joiner.combine(model.joiner.encoder_proj(x[t : t + 1]), model.joiner.predictor_proj(out))
            total += torch.log_softmax(logits, -1)[0, symbol].item()
            history += [symbol] if symbol else []
        scores[symbols] = total
    return scores


@torch.no_grad()
def test_the_best_path_is_the_best_of_all_alignments(model: Transducer, encoder_out: torch.Tensor) -> None:
    found = k2_best_paths(lattice(model, encoder_out))
    for b, (labels, score) in enumerate(found):
        every = path_scores(model, encoder_out[b, : LENS[b]])
        best = max(every, key=lambda symbols: every[symbols])
        assert labels == [symbol for symbol in best if symbol]
        assert abs(score - every[best]) < 1e-3


@torch.no_grad()
def test_the_lattice_sums_what_our_search_sums(model: Transducer, encoder_out: torch.Tensor) -> None:
    options = BeamOptions(beam=1500, nbest=1500)
    ours = modified_beam_search(model, encoder_out, LENS, frame_shift_s=0.04, options=options)
    for labels in ([1], [2, 3], [2, 2, 1]):
        made = lattice(model, encoder_out, only(labels))
        total = made.get_tot_scores(use_double_scores=True, log_semiring=True).tolist()
        for b, nbest in enumerate(ours):
            expected = next(h.score for h in nbest if h.tokens == labels)
            assert abs(total[b] - expected) < 1e-3


@torch.no_grad()
def test_the_nbest_list_has_the_best_path_first(model: Transducer, encoder_out: torch.Tensor) -> None:
    made = lattice(model, encoder_out)
    for nbest, (labels, score) in zip(k2_nbest(made, 2000), k2_best_paths(made), strict=True):
        assert nbest[0][0] == labels and abs(nbest[0][1] - score) < 1e-3
        assert len({tuple(sequence) for sequence, _ in nbest}) == len(nbest) > 1


@torch.no_grad()
def test_a_graph_lets_only_its_own_labels_through(model: Transducer, encoder_out: torch.Tensor) -> None:
    for labels, _ in k2_best_paths(lattice(model, encoder_out, only([2, 3]))):
        assert labels == [2, 3]
