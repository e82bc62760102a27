from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from asrkit.decoding import beam_search as beam_module
from asrkit.decoding import full_sum
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.greedy import greedy_search
from asrkit.decoding.greedy_path import GreedyPath
from asrkit.decoding.histories import Histories
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.language_model import LstmLanguageModel, line_log_probs
from asrkit.models.transducer import Transducer
from tests.conftest import tiny_model
from tests.decoding.test_search import encoded, forward_log_prob, talkative

X_LENS = torch.tensor([9, 0, 14, 1])
NARROW = BeamOptions(beam=2, nbest=3)


def search(options: BeamOptions = NARROW, fusion: Fusion | None = None) -> list[list[Hypothesis]]:
    model = talkative(tiny_model(dtype=torch.float64))
    x = encoded(4, 14, dtype=torch.float64)
    return beam_search(model, x, X_LENS, frame_shift_s=0.04, options=options, fusion=fusion)


def test_scores_of_a_narrow_beam_are_forward_probabilities() -> None:
    model, x = talkative(tiny_model(dtype=torch.float64)), encoded(4, 14, dtype=torch.float64)
    found, plain = search(), search(replace(NARROW, full_sum=False))
    assert [h.tokens for h in found[1]] == [[]] and found[1][0].score == 0.0
    for b in (0, 2, 3):
        scores = [h.score for h in found[b]]
        assert scores == sorted(scores, reverse=True) and len(scores) >= 2
        for h in found[b]:
            assert abs(h.score - forward_log_prob(model, x[b : b + 1, : X_LENS[b]], h.tokens)) < 1e-9
            assert h.parts == {"am": h.score} and len(h.token_times) == len(h.tokens)
    # The beam of 2 left alignments out, which is what this is for.
    by_labels = {tuple(h.tokens): h.score for h in found[2]}
    assert any(by_labels[tuple(h.tokens)] > h.score + 1e-3 for h in plain[2] if tuple(h.tokens) in by_labels)


def test_the_best_is_never_less_probable_than_greedys() -> None:
    model, x = talkative(tiny_model(dtype=torch.float64)), encoded(40, 12, dtype=torch.float64) / 2
    lens = torch.full((40,), 12)
    greedy = greedy_search(model, x, lens, frame_shift_s=0.04, max_symbols=5)
    best, plain = (
        beam_search(model, x, lens, frame_shift_s=0.04, options=BeamOptions(beam=2, full_sum=full))
        for full in (True, False)
    )
    gained = 0
    for b in range(40):
        reached = forward_log_prob(model, x[b : b + 1], greedy[b].tokens)
        assert best[b][0].score >= reached - 1e-9
        gained += forward_log_prob(model, x[b : b + 1], plain[b][0].tokens) < reached - 1e-9
    assert gained  # the beam's own best is less probable on some


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search()
    monkeypatch.setattr(full_sum, "NODES_AT_ONCE", 400)
    monkeypatch.setattr(full_sum, "JOINT_AT_ONCE", 40)
    for mine, other in zip(search(), whole, strict=True):
        assert [h.tokens for h in mine] == [h.tokens for h in other]
        assert [h.score for h in mine] == pytest.approx([h.score for h in other], abs=1e-12)


def test_of_a_long_utterance_the_beams_own_scores_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, plain = search(), search(replace(NARROW, full_sum=False))
    assert exact[0] != plain[0] and exact[2] != plain[2]
    monkeypatch.setattr(beam_module, "MAX_SUMMED_S", 0.36)  # 9 frames
    mixed = search()
    assert mixed[1:3] == plain[1:3] and mixed[3] == exact[3]
    assert [h.tokens for h in mixed[0]] == [h.tokens for h in exact[0]]
    assert [h.score for h in mixed[0]] == pytest.approx([h.score for h in exact[0]], abs=1e-12)


def banded(model: Transducer, x: torch.Tensor, labels: list[int], begin: list[int], end: list[int]) -> float:
    """log P(labels | x) over the nodes (t, u) with begin_u <= t < end_u."""
    tokens = torch.tensor([labels], dtype=torch.int64)
    log_probs = torch.log_softmax(model.joiner(x, model.predictor(tokens)), -1)[0]
    alpha = {(0, 0): 0.0}
    for t in range(x.shape[1]):
        for u in range(len(labels) + 1):
            ways = [
                alpha[node] + log_probs[(*node, symbol)].item()
                for node, symbol in (((t - 1, u), 0), ((t, u - 1), labels[u - 1]))
                if node in alpha
            ]
            if ways and begin[u] <= t < end[u]:
                alpha[t, u] = float(torch.logsumexp(torch.tensor(ways, dtype=torch.float64), 0))
    return alpha[x.shape[1] - 1, len(labels)] + log_probs[-1, -1, 0].item()


@pytest.mark.parametrize("joint_at_once", [40, 1 << 18])
@pytest.mark.parametrize("band", [0, 2, 5])
def test_a_band_leaves_out_what_is_far_from_where_labels_were_found(
    monkeypatch: pytest.MonkeyPatch, band: int, joint_at_once: int
) -> None:
    monkeypatch.setattr(full_sum, "JOINT_AT_ONCE", joint_at_once)
    model, x = talkative(tiny_model(dtype=torch.float64)), encoded(2, 40, dtype=torch.float64)
    labels, frames = [[3, 1, 1, 5, 2], [3, 1, 4], [4]], [[2, 9, 9, 20, 39], [4, 6, 30], [17]]
    tokens, times = (pad_sequence([torch.tensor(row) for row in rows], batch_first=True) for rows in (labels, frames))
    token_lens, lens, utterance = torch.tensor([5, 3, 1]), torch.tensor([40, 33]), torch.tensor([0, 0, 1])
    histories = Histories(model)
    tree = full_sum.label_tree(histories.extend, tokens, token_lens, utterance)
    args = model.joiner.log_probs, model.joiner.encoder_proj(x), lens, histories.projection, tree, token_lens, times
    near, whole = (full_sum.full_sums(*args, width).tolist() for width in (band, 100))
    # The first two share the histories of no label, of 3 and of 3 1: from where the earlier needs it, to the later.
    begin = [[0, 2, 6, 9, 20, 39], [0, 2, 6, 30], [0, 17]]
    end = [[4, 9, 30, 20, 39, 40], [4, 9, 30, 40], [17, 33]]
    for n, y in enumerate(labels):
        own = x[utterance[n], None, : lens[utterance[n]]]
        first = [max(0, t - band) for t in begin[n]]
        last = [*(t + band + 1 for t in end[n][:-1]), end[n][-1]]
        assert near[n] == pytest.approx(banded(model, own, y, first, last), abs=1e-9)
        assert whole[n] == pytest.approx(forward_log_prob(model, own, y), abs=1e-9)
        assert near[n] < whole[n]


def test_hypotheses_share_the_histories_that_they_share() -> None:
    tokens = torch.tensor([[1, 2, 3], [1, 2, 0], [1, 3, 0], [0, 0, 0], [1, 2, 3]])
    token_lens, utterance = torch.tensor([3, 2, 2, 0, 3]), torch.tensor([4, 4, 4, 7, 7])
    histories = Histories(tiny_model())
    tree = full_sum.label_tree(histories.extend, tokens, token_lens, utterance)
    assert tree.utterance.tolist() == [4, 7, 4, 7, 4, 4, 7, 4, 7]
    assert tree.label.tolist() == [0, 0, 1, 1, 2, 3, 2, 3, 3]
    assert tree.parent.tolist() == [-1, -1, 0, 1, 2, 2, 3, 4, 6]
    assert tree.length.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert tree.row.tolist() == [0, 0, 1, 1, 2, 3, 2, 4, 4]  # the predictor sees labels alone
    assert [tree.place[n, : token_lens[n] + 1].tolist() for n in range(5)] == [
        [0, 2, 4, 7],
        [0, 2, 4],
        [0, 2, 5],
        [1],
        [1, 3, 6, 8],
    ]


@pytest.mark.parametrize("max_symbols", [1, 3])
def test_greedys_path_is_the_greedy_search(max_symbols: int) -> None:
    model, x = talkative(tiny_model()), encoded(6, 20)
    lens = torch.tensor([20, 3, 0, 14, 20, 9])
    path = GreedyPath(6, max_symbols, lens.device)
    path.bound(lens, torch.tensor([100, 100, -1, 100, 3, 100]))
    histories, proj = Histories(model), model.joiner.encoder_proj(x)
    utterance = torch.arange(6)
    while path.continues().any():
        log_probs = model.joiner.log_probs(proj[utterance, path.frame.clamp(0, 19)], histories.projection[path.row])
        path.advance(log_probs, utterance, histories)
    expected = greedy_search(model, x, lens, frame_shift_s=0.04, max_symbols=max_symbols)
    found = path.hypotheses(0.04)
    assert found[2] is None
    assert len(expected[4].tokens) > 3 and found[4] is None  # more labels than allowed
    for b in (0, 1, 3, 5):
        mine = found[b]
        assert mine is not None and mine.tokens == expected[b].tokens
        assert mine.token_times == pytest.approx(expected[b].token_times)
        assert mine.token_scores == pytest.approx(expected[b].token_scores, abs=1e-5)


def test_greedys_hypothesis_keeps_to_the_bounds_of_the_search() -> None:
    model, x = tiny_model(dtype=torch.float64), encoded(1, 10, dtype=torch.float64)
    with torch.no_grad():
        model.joiner.out.bias[0] -= 50.0  # greedy says as many labels as it may
    lens = torch.tensor([10])
    options = BeamOptions(beam=2, nbest=20, max_labels_per_frame=1.5)
    assert {len(h.tokens) for h in beam_search(model, x, lens, frame_shift_s=0.04, options=options)[0]} == {15}
    longer = replace(options, max_labels_per_frame=5.0)
    found = beam_search(model, x, lens, frame_shift_s=0.04, options=longer)[0]
    assert greedy_search(model, x, lens, frame_shift_s=0.04)[0].tokens in [h.tokens for h in found]


def test_fusion_is_added_to_the_sum() -> None:
    model, x = talkative(tiny_model(dtype=torch.float64)), encoded(4, 14, dtype=torch.float64)
    torch.manual_seed(1)
    source, target = (LstmLanguageModel(6, 8, 1, 4).double().eval() for _ in range(2))
    options = replace(NARROW, nbest=20, max_labels_per_frame=4.0)
    found = search(options, Fusion(FusionWeights(0.3, 0.6, 0.2), target, source))
    # Greedy's hypothesis is among them though the beam did not find it: its parts have to be right too.
    greedy = greedy_search(model, x, X_LENS, frame_shift_s=0.04)
    plain = search(replace(options, full_sum=False), Fusion(FusionWeights(0.3, 0.6, 0.2), target, source))
    assert greedy[2].tokens in [h.tokens for h in found[2]]
    assert greedy[2].tokens not in [h.tokens for h in plain[2]]
    for b in (0, 2):
        for h in found[b]:
            tokens, lens = torch.tensor([h.tokens], dtype=torch.int64), torch.tensor([len(h.tokens)])
            parts = {
                "am": forward_log_prob(model, x[b : b + 1, : X_LENS[b]], h.tokens),
                "source_lm": line_log_probs(source, tokens, lens, with_end=False).item(),
                "target_lm": line_log_probs(target, tokens, lens, with_end=False).item(),
                "length": float(len(h.tokens)),
            }
            assert h.parts == pytest.approx(parts, abs=1e-9)
            expected = parts["am"] - 0.3 * parts["source_lm"] + 0.6 * parts["target_lm"] + 0.2 * parts["length"]
            assert abs(h.score - expected) < 1e-9


def test_a_penalty_of_blank_is_part_of_it() -> None:
    penalized, x = talkative(tiny_model(dtype=torch.float64)), encoded(4, 14, dtype=torch.float64)
    with torch.no_grad():
        penalized.joiner.out.bias[0] -= 2.0
    for h in search(replace(NARROW, blank_penalty=2.0))[2]:
        assert abs(h.score - forward_log_prob(penalized, x[2:3], h.tokens)) < 1e-9
