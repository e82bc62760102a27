from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from asrkit.decoding import beam_search as beam_module
from asrkit.decoding import full_sum
from asrkit.decoding.beam_search import BeamOptions, beam_search
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.greedy import greedy_search
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.language_model import LstmLanguageModel, line_log_probs
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
    monkeypatch.setattr(full_sum, "NODES_AT_ONCE", 40)
    monkeypatch.setattr(full_sum, "JOINT_AT_ONCE", 40)
    for mine, other in zip(search(), whole, strict=True):
        assert [h.tokens for h in mine] == [h.tokens for h in other]
        assert [h.score for h in mine] == pytest.approx([h.score for h in other], abs=1e-12)


def test_where_lattices_are_too_large_the_beams_own_scores_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, plain = search(), search(replace(NARROW, full_sum=False))
    sizes = [full_sum.lattice_nodes(int(frames), nbest) for frames, nbest in zip(X_LENS, exact, strict=True)]
    assert sizes[0] < sizes[2] and exact[0] != plain[0] and exact[2] != plain[2]
    monkeypatch.setattr(beam_module, "LARGEST", sizes[0])
    mixed = search()
    assert mixed[1:3] == plain[1:3] and mixed[3] == exact[3]
    assert [h.tokens for h in mixed[0]] == [h.tokens for h in exact[0]]
    assert [h.score for h in mixed[0]] == pytest.approx([h.score for h in exact[0]], abs=1e-12)


def test_greedys_hypothesis_keeps_to_the_bounds_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tiny_model(dtype=torch.float64), encoded(1, 10, dtype=torch.float64)
    with torch.no_grad():
        model.joiner.out.bias[0] -= 50.0  # greedy says as many labels as it may
    lens = torch.tensor([10])
    options = BeamOptions(beam=2, nbest=20, max_labels_per_frame=1.5)
    assert {len(h.tokens) for h in beam_search(model, x, lens, frame_shift_s=0.04, options=options)[0]} == {15}
    longer = replace(options, max_labels_per_frame=5.0)
    found = beam_search(model, x, lens, frame_shift_s=0.04, options=longer)[0]
    assert greedy_search(model, x, lens, frame_shift_s=0.04)[0].tokens in [h.tokens for h in found]
    # Where only greedy's hypothesis would make the lattices too large, it is left out.
    monkeypatch.setattr(beam_module, "LARGEST", 2 * 10 * 16)
    assert len(beam_search(model, x, lens, frame_shift_s=0.04, options=options)[0]) == 2


def test_fusion_is_added_to_the_sum() -> None:
    model, x = talkative(tiny_model(dtype=torch.float64)), encoded(4, 14, dtype=torch.float64)
    torch.manual_seed(1)
    source, target = (LstmLanguageModel(6, 8, 1, 4).double().eval() for _ in range(2))
    found = search(NARROW, Fusion(FusionWeights(0.3, 0.6, 0.2), target, source))
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
