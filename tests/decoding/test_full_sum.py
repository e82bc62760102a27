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
    monkeypatch.setattr(beam_module, "LARGEST", 60)
    mixed = search()
    assert mixed[:2] == plain[:2] and mixed[2] == plain[2]
    assert mixed[3] == exact[3]


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
