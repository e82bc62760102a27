from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from asrkit.bundle.build import build_transducer
from asrkit.config_files import config_from_dict
from asrkit.decoding import beam_search as beam_module
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import AlignmentLengthSearch, OpenSearch, beam_search, modified_beam_search
from asrkit.decoding.greedy import greedy_search
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.search import make_search
from asrkit.models.transducer import Transducer
from tests.conftest import TINY, tiny_model

EXACT = BeamOptions(beam=400, nbest=400, max_symbols=0, full_sum=False)
"""Wider than the number of label sequences in these tests, so that nothing is pruned; scores are the beam's own."""


def encoded(batch: int, time: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, time, 16, dtype=dtype) * 2


def talkative(model: Transducer) -> Transducer:
    """The model with sharper and less blank decisions, so that searches have something to find."""
    with torch.no_grad():
        model.joiner.out.weight.mul_(6)
        model.joiner.out.bias[0] += 1.0
    return model


def forward_log_prob(model: Transducer, encoder_out: torch.Tensor, labels: list[int]) -> float:
    """log P(labels | x) by the forward recursion over the lattice, in the model's precision."""
    tokens = torch.tensor([labels], dtype=torch.int64)
    log_probs = torch.log_softmax(model.joiner(encoder_out, model.predictor(tokens)), -1)[0]
    alpha: dict[tuple[int, int], float] = {(0, 0): 0.0}
    time = log_probs.shape[0]
    for t in range(time):
        for u in range(len(labels) + 1):
            terms = []
            if t:
                terms.append(alpha[t - 1, u] + log_probs[t - 1, u, 0].item())
            if u:
                terms.append(alpha[t, u - 1] + log_probs[t, u - 1, labels[u - 1]].item())
            if terms:
                alpha[t, u] = float(torch.logsumexp(torch.tensor(terms, dtype=torch.float64), 0))
    return alpha[time - 1, len(labels)] + log_probs[time - 1, len(labels), 0].item()


def test_an_infinite_beam_sums_all_alignments() -> None:
    model = tiny_model(vocab_size=3, dtype=torch.float64)
    x = encoded(1, 4, dtype=torch.float64)
    # Labels 1 and 2, at most 4 of them: 31 sequences, far fewer than the beam.
    found = beam_search(model, x, torch.tensor([4]), frame_shift_s=0.04, options=EXACT)[0]
    assert len(found) == sum(2**u for u in range(5))
    for hypothesis in found:
        assert abs(hypothesis.score - forward_log_prob(model, x, hypothesis.tokens)) < 1e-9


def test_the_probabilities_of_all_sequences_sum_to_1() -> None:
    model = tiny_model(vocab_size=2, dtype=torch.float64)
    with torch.no_grad():
        model.joiner.out.bias[0] += 6.0  # long sequences are rare, so the sum over the short ones is nearly all
    options = replace(EXACT, max_labels_per_frame=4.0)
    x = encoded(1, 3, dtype=torch.float64)
    found = beam_search(model, x, torch.tensor([3]), frame_shift_s=0.04, options=options)[0]
    assert abs(sum(math.exp(h.score) for h in found) - 1) < 1e-9


def greedy_by_hand(model: Transducer, x: torch.Tensor, max_symbols: int) -> tuple[list[int], list[int]]:
    """The textbook loop over one utterance."""
    labels: list[int] = []
    frames: list[int] = []
    for t in range(x.shape[1]):
        for _ in range(max_symbols):
            history = model.predictor(torch.tensor([labels], dtype=torch.int64))[:, -1:]
            token = int(model.joiner(x[:, t : t + 1], history).argmax())
            if token == 0:
                break
            labels.append(token)
            frames.append(t)
    return labels, frames


@pytest.mark.parametrize("max_symbols", [1, 3])
def test_greedy_is_the_textbook_loop(max_symbols: int) -> None:
    model = talkative(tiny_model())
    x = encoded(3, 20)
    found = greedy_search(model, x, torch.tensor([20, 20, 20]), frame_shift_s=0.04, max_symbols=max_symbols)
    assert any(h.tokens for h in found)
    for b, hypothesis in enumerate(found):
        labels, frames = greedy_by_hand(model, x[b : b + 1], max_symbols)
        assert hypothesis.tokens == labels
        assert hypothesis.token_times == pytest.approx([0.04 * t for t in frames])


@pytest.mark.parametrize("blank_penalty", [0.0, 1.5])
def test_a_penalty_of_blank_is_a_lower_bias(blank_penalty: float) -> None:
    model, x = talkative(tiny_model()), encoded(3, 20)
    found = make_search("greedy", BeamOptions(blank_penalty=blank_penalty))(model, x, torch.tensor([20] * 3), 0.04)
    with torch.no_grad():
        model.joiner.out.bias[0] -= blank_penalty
    assert [h[0].tokens for h in found] == [greedy_by_hand(model, x[b : b + 1], 5)[0] for b in range(3)]


@pytest.mark.parametrize(
    ("method", "full_sum"), [("greedy", True), ("beam", True), ("beam", False), ("modified_beam", True)]
)
def test_batch_and_order_change_nothing(method: str, full_sum: bool) -> None:
    model = talkative(tiny_model())
    search = make_search(method, BeamOptions(beam=4, nbest=4, full_sum=full_sum))
    features = torch.randn(4, 120, 16, generator=torch.Generator().manual_seed(1)) * 3
    lens = torch.tensor([120, 64, 17, 90])

    def decode(x: torch.Tensor, x_lens: torch.Tensor) -> list[list[Hypothesis]]:
        encoder_out, encoder_lens = model.encoder(x, x_lens)
        return search(model, encoder_out, encoder_lens, 0.04)

    together = decode(features, lens)
    order = torch.tensor([2, 0, 3, 1])
    permuted = decode(features[order], lens[order])
    assert any(nbest[0].tokens for nbest in together)
    for b in range(4):
        alone = decode(features[b : b + 1, : lens[b]], lens[b : b + 1])[0]
        moved = permuted[order.tolist().index(b)]
        for others in (alone, moved):
            assert [h.tokens for h in others] == [h.tokens for h in together[b]]
            assert [h.score for h in others] == pytest.approx([h.score for h in together[b]], abs=1e-4)


@pytest.mark.parametrize("method", ["beam", "modified_beam"])
def test_leaving_ended_utterances_out_changes_nothing(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    model, x = talkative(tiny_model(dtype=torch.float64)), encoded(5, 30, dtype=torch.float64)
    lens = torch.tensor([30, 4, 0, 21, 12])
    found = []
    for kept in (0.0, 1.0):  # only once all have ended, and after each
        monkeypatch.setattr(beam_module, "SHRINK_SHARE", kept)
        found.append(make_search(method, BeamOptions(beam=4, nbest=4))(model, x, lens, 0.04))
    assert len(found[0][0]) == 4
    for a, b in zip(*found, strict=True):
        assert [(h.tokens, h.token_times) for h in a] == [(h.tokens, h.token_times) for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-10)


@pytest.mark.parametrize("pieces", [[12, 18], [1] * 30, [0, 29, 1], [30, 0]])
@pytest.mark.parametrize("method", ["greedy", "beam", "modified_beam"])
def test_frames_may_come_in_pieces(method: str, pieces: list[int]) -> None:
    """A search that is held open ends with what it finds when all frames are there at once."""
    model, x = talkative(tiny_model(dtype=torch.float64)), encoded(3, 30, dtype=torch.float64)
    lens = torch.tensor([30, 9, 21])
    # As many labels as the model has to say: the bound by all frames is not reached.
    search = make_search(method, BeamOptions(beam=4, nbest=4, max_labels_per_frame=5.0))
    whole = search(model, x, lens, 0.04)
    started, first = search.start(model, 3, 0.04), 0
    for n, size in enumerate(pieces):
        piece_lens = (lens - first).clamp(0, size)
        started.accept(x[:, first : first + size], piece_lens, last=n == len(pieces) - 1)
        first += size
    assert any(nbest[0].tokens for nbest in whole)
    for mine, other in zip(started.results(), whole, strict=True):
        assert [(h.tokens, h.token_times) for h in mine] == [(h.tokens, h.token_times) for h in other]
        assert [h.score for h in mine] == pytest.approx([h.score for h in other], abs=1e-10)
    with pytest.raises(ValueError, match="has had its last frames"):
        started.accept(x, lens)


def test_a_search_goes_as_far_as_the_frames_reach() -> None:
    model, x = talkative(tiny_model()), encoded(1, 20)
    started = make_search("greedy").start(model, 1, 0.04)
    found = []
    for t in range(20):
        started.accept(x[:, t : t + 1], torch.tensor([1]), last=t == 19)
        found.append(len(started.results()[0][0].tokens))
    assert found == sorted(found) and len(set(found)) > 3  # labels appear while the frames come


def test_the_best_of_an_infinite_beam_is_at_least_as_probable_as_greedy() -> None:
    model = talkative(tiny_model(vocab_size=3, dtype=torch.float64))
    x = encoded(20, 4, seed=5, dtype=torch.float64)
    lens = torch.full((20,), 4)
    greedy = greedy_search(model, x, lens, frame_shift_s=0.04, max_symbols=1)
    wide = beam_search(model, x, lens, frame_shift_s=0.04, options=replace(EXACT, nbest=1))
    for b in range(20):
        best = forward_log_prob(model, x[b : b + 1], wide[b][0].tokens)
        assert best >= forward_log_prob(model, x[b : b + 1], greedy[b].tokens) - 1e-9


def test_nbest_is_sorted_and_without_repeats() -> None:
    model = talkative(tiny_model())
    options = BeamOptions(beam=8, nbest=5)
    nbest = beam_search(model, encoded(1, 15), torch.tensor([15]), frame_shift_s=0.04, options=options)[0]
    assert len(nbest) == 5
    assert [h.score for h in nbest] == sorted((h.score for h in nbest), reverse=True)
    assert len({tuple(h.tokens) for h in nbest}) == 5
    for h in nbest:
        assert len(h.tokens) == len(h.token_times) == len(h.token_scores)
        assert h.token_times == sorted(h.token_times) and all(0 <= t < 15 * 0.04 for t in h.token_times)


def test_searches_end_on_a_model_that_never_says_blank() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.joiner.out.bias[0] -= 50.0
    x, lens = encoded(1, 10), torch.tensor([10])
    assert len(greedy_search(model, x, lens, frame_shift_s=0.04, max_symbols=5)[0].tokens) == 50
    options = BeamOptions(beam=4, nbest=4, max_symbols=0)
    for search in (beam_search, modified_beam_search):
        nbest = search(model, x, lens, frame_shift_s=0.04, options=options)[0]
        assert nbest and all(len(h.tokens) <= 10 for h in nbest)


def modified_log_prob(model: Transducer, encoder_out: torch.Tensor, labels: list[int]) -> float:
    """log of the probability of all alignments with at most one label a frame, where a label ends its frame."""
    tokens = torch.tensor([labels], dtype=torch.int64)
    log_probs = torch.log_softmax(model.joiner(encoder_out, model.predictor(tokens)), -1)[0]
    alpha = {0: 0.0}
    for t in range(log_probs.shape[0]):
        after: dict[int, list[float]] = {}
        for u, score in alpha.items():
            after.setdefault(u, []).append(score + log_probs[t, u, 0].item())
            if u < len(labels):
                after.setdefault(u + 1, []).append(score + log_probs[t, u, labels[u]].item())
        alpha = {u: float(torch.logsumexp(torch.tensor(s, dtype=torch.float64), 0)) for u, s in after.items()}
    return alpha[len(labels)]


def test_the_modified_search_sums_alignments_with_one_label_a_frame() -> None:
    model = tiny_model(vocab_size=3, dtype=torch.float64)
    x = encoded(1, 4, dtype=torch.float64)
    found = modified_beam_search(model, x, torch.tensor([4]), frame_shift_s=0.04, options=EXACT)[0]
    assert len(found) == sum(2**u for u in range(5))
    for h in found:
        assert abs(h.score - modified_log_prob(model, x, h.tokens)) < 1e-9
        assert len(set(h.token_times)) == len(h.token_times)


def test_all_hypotheses_of_a_step_have_the_same_alignment_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model = talkative(tiny_model())
    steps: list[set[int]] = []
    step = AlignmentLengthSearch._step

    def watched(self: AlignmentLengthSearch) -> None:
        assert self.beam is not None
        steps.append(set((self._frame() + self.beam.length)[self.beam.live].tolist()))
        step(self)

    monkeypatch.setattr(AlignmentLengthSearch, "_step", watched)
    nbest = beam_search(model, encoded(3, 12), torch.tensor([12, 12, 7]), frame_shift_s=0.04)
    assert any(of_utterance[0].tokens for of_utterance in nbest)
    assert steps == [{i} for i in range(len(steps))] and len(steps) > 12


@pytest.mark.parametrize("method", ["greedy", "beam", "modified_beam"])
def test_utterances_without_frames_or_with_one(method: str) -> None:
    model = talkative(tiny_model())
    search = make_search(method, BeamOptions(beam=3, nbest=3))
    x = encoded(3, 5)
    nothing, one, whole = search(model, x, torch.tensor([0, 1, 5]), 0.04)
    assert [h.tokens for h in nothing] == [[]]
    assert len(one[0].tokens) <= 5
    alone = search(model, x[2:], torch.tensor([5]), 0.04)[0]
    assert [h.tokens for h in whole] == [h.tokens for h in alone]
    assert search(model, x[:0], torch.tensor([], dtype=torch.int64), 0.04) == []


def test_options_narrow_the_search() -> None:
    model = talkative(tiny_model(dtype=torch.float64))
    x, lens = encoded(1, 10, dtype=torch.float64), torch.tensor([10])

    def labels(**options: float) -> list[list[int]]:
        made = BeamOptions(**({"beam": 8, "nbest": 8} | options))  # type: ignore[arg-type]
        return [h.tokens for h in beam_search(model, x, lens, frame_shift_s=0.04, options=made)[0]]

    assert labels(expand_beam=5, score_margin=1e9) == labels()  # five labels are all there are
    assert labels(score_margin=1e-9) == labels(beam=1) != labels()
    assert len(labels(blank_penalty=-20.0)[0]) < len(labels()[0])
    penalties = (BeamOptions(blank_penalty=penalty) for penalty in (0.0, -20.0))
    plain, shy = (modified_beam_search(model, x, lens, frame_shift_s=0.04, options=o)[0][0].tokens for o in penalties)
    assert len(shy) < len(plain)
    times = beam_search(model, x, lens, frame_shift_s=1.0, options=BeamOptions(beam=8, max_symbols=1))[0][0].token_times
    assert len(set(times)) == len(times)


def test_a_stateless_predictor_repeats_itself_and_is_searched() -> None:
    model = talkative(stateless_model())
    x = encoded(2, 6, dtype=torch.float64)
    found = beam_search(model, x[:1, :4], torch.tensor([4]), frame_shift_s=0.04, options=replace(EXACT, nbest=30))[0]
    for h in found:
        assert abs(h.score - forward_log_prob(model, x[:1, :4], h.tokens)) < 1e-9
    tokens = torch.tensor([[3, 1, 2], [2, 2, 1]])
    state = model.predictor.initial_state(2)
    for u, column in enumerate([torch.zeros(2, dtype=torch.int64), *tokens.unbind(1)]):
        out, state = model.predictor.step(column, state)
        assert torch.allclose(out, model.predictor(tokens)[:, u])


def stateless_model() -> Transducer:
    """A tiny transducer whose predictor sees two labels."""
    torch.manual_seed(0)
    settings = TINY["model"] | {"predictor": {"type": "stateless", "embedding_dim": 8}}
    return build_transducer(config_from_dict(TINY | {"model": settings}, "tests"), 4).double().eval()


@pytest.mark.parametrize("search", [beam_search, modified_beam_search])
def test_expansions_are_by_the_best_labels(search) -> None:  # type: ignore[no-untyped-def]
    model = tiny_model(vocab_size=4, dtype=torch.float64)
    x = encoded(1, 4, dtype=torch.float64)

    def ranks(expand_beam: int) -> set[int]:
        """Places of the labels found among those of their frames and histories, 0 for the best."""
        options = replace(EXACT, expand_beam=expand_beam)
        found = set()
        for h in search(model, x, torch.tensor([4]), frame_shift_s=1.0, options=options)[0]:
            log_probs = model.joiner(x, model.predictor(torch.tensor([h.tokens], dtype=torch.int64)))[0]
            for u, (label, frame) in enumerate(zip(h.tokens, h.token_times, strict=True)):
                logits = log_probs[round(frame), u, 1:]
                found.add(int((logits > logits[label - 1]).sum()))
        return found

    assert ranks(0) == {0, 1, 2} and ranks(2) == {0, 1} and ranks(1) == {0}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["greedy", "beam", "modified"])
def test_cuda_finds_what_the_cpu_finds(method: str) -> None:
    model, x, lens = talkative(tiny_model(dtype=torch.float64)), encoded(3, 20, dtype=torch.float64), [20, 13, 7]

    def found(device: str) -> list[list[int]]:
        moved, options = model.to(device), BeamOptions(beam=4)
        where = x.to(device), torch.tensor(lens, device=device)
        if method == "greedy":
            return [h.tokens for h in greedy_search(moved, *where, frame_shift_s=0.04, max_symbols=5)]
        search = beam_search if method == "beam" else modified_beam_search
        return [h.tokens for nbest in search(moved, *where, frame_shift_s=0.04, options=options) for h in nbest]

    expected = found("cpu")
    assert any(expected) and found("cuda") == expected


@pytest.mark.parametrize("method", ["beam", "modified_beam"])
def test_frames_of_a_long_recording_are_dropped_once_they_are_searched(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(beam_module, "MAX_SUMMED_S", 2.0)
    model, x = talkative(tiny_model(5)), encoded(1, 1200)
    search = make_search(method, BeamOptions(beam=3, nbest=3, max_labels_per_frame=5))
    whole = search(model, x, torch.tensor([1200]), 0.04)[0]
    pieces, kept = search.start(model, 1, 0.04), list[int]()
    assert isinstance(pieces, OpenSearch)
    for first in range(0, 1200, 100):
        pieces.accept(x[:, first : first + 100], torch.tensor([100]), last=first == 1100)
        kept.append(pieces.frames.projection.shape[1])
    assert max(kept) <= 220  # those of one piece, and where hypotheses still stand
    found = pieces.results()[0]
    assert [h.tokens for h in found] == [h.tokens for h in whole]
    assert [h.token_times for h in found] == [h.token_times for h in whole]


def test_more_labels_than_frames_before_the_end_is_known_still_end() -> None:
    model, x = talkative(tiny_model(5)), encoded(1, 120)
    with torch.no_grad():
        model.joiner.out.bias[0] -= 20  # labels at every frame until the bound
    started = make_search("beam", BeamOptions(beam=2, full_sum=False)).start(model, 1, 0.04)
    started.accept(x[:, :100], torch.tensor([100]), last=False)
    started.accept(x[:, 100:], torch.tensor([20]), last=True)
    (best,) = started.results()[0]
    assert len(best.tokens) > 120 and math.isfinite(best.score)
