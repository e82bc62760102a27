from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from asrkit.decoding import histories
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search, modified_beam_search
from asrkit.decoding.density_ratio import Fusion, FusionWeights, internal_log_probs
from asrkit.decoding.nbest import posteriors, rescore
from asrkit.models.language_model import LstmLanguageModel, LstmSteps, State, TransformerLanguageModel, line_log_probs
from tests.conftest import tiny_model
from tests.decoding.test_search import EXACT, encoded, forward_log_prob, talkative

X_LENS = torch.tensor([5])


def language_model(seed: int) -> LstmLanguageModel:
    torch.manual_seed(seed)
    return LstmLanguageModel(3, 8, 2, 4).double().eval()


def test_the_papers_arithmetic() -> None:
    """log p -10, source -8, external -6, 5 labels; mu 0.5, lambda 0.7, rho 0.2: -9.2."""
    weights = FusionWeights(source=0.5, target=0.7, length=0.2)
    assert abs(-10 + weights.bonus(-8.0, -6.0, 5.0) - -9.2) < 1e-12


@pytest.mark.parametrize("search", [beam_search, modified_beam_search])
def test_scores_are_the_formula_on_every_hypothesis(search) -> None:  # type: ignore[no-untyped-def]
    model = tiny_model(vocab_size=3, dtype=torch.float64)
    x = encoded(1, 5, dtype=torch.float64)
    source, target = language_model(1), language_model(2)
    weights = FusionWeights(source=0.5, target=0.7, length=0.2)
    options = replace(EXACT, nbest=20)
    plain = {tuple(h.tokens): h for h in search(model, x, X_LENS, frame_shift_s=0.04, options=EXACT)[0]}
    found = search(model, x, X_LENS, frame_shift_s=0.04, options=options, fusion=Fusion(weights, target, source))[0]
    assert len(found) == 20
    for h in found:
        tokens, lens = torch.tensor([h.tokens], dtype=torch.int64), torch.tensor([len(h.tokens)])
        parts = {
            "am": plain[tuple(h.tokens)].score,
            "source_lm": line_log_probs(source, tokens, lens, with_end=False).item(),
            "target_lm": line_log_probs(target, tokens, lens, with_end=False).item(),
            "length": float(len(h.tokens)),
        }
        assert h.parts == pytest.approx(parts, abs=1e-9)
        expected = parts["am"] - 0.5 * parts["source_lm"] + 0.7 * parts["target_lm"] + 0.2 * len(h.tokens)
        assert abs(h.score - expected) < 1e-9


def test_no_weight_is_no_language_model() -> None:
    model = talkative(tiny_model(vocab_size=3, dtype=torch.float64))
    x, lens = encoded(3, 12, dtype=torch.float64), torch.tensor([12, 9, 4])
    fusion = Fusion(FusionWeights(), language_model(1), language_model(2))
    options = BeamOptions(beam=4, nbest=4)
    fused = beam_search(model, x, lens, frame_shift_s=0.04, options=options, fusion=fusion)
    plain = beam_search(model, x, lens, frame_shift_s=0.04, options=options)
    for a, b in zip(fused, plain, strict=True):
        assert [(h.tokens, h.token_times) for h in a] == [(h.tokens, h.token_times) for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-12)


def test_the_internal_language_model_is_the_joiner_without_encoder() -> None:
    model = tiny_model(vocab_size=4, dtype=torch.float64)
    history = model.predictor(torch.tensor([[1, 3]]))[:, -1]
    nothing = torch.zeros(1, 1, model.encoder.output_dim, dtype=torch.float64)
    logits = model.joiner(nothing, history[:, None])[0, 0, 0]
    found = internal_log_probs(model, model.joiner.predictor_proj(history))[0]
    assert torch.allclose(found[1:], torch.log_softmax(logits[1:], 0), atol=1e-12)
    fusion = Fusion(FusionWeights(source=0.3), internal=True)
    with_internal = beam_search(
        model,
        encoded(1, 5, dtype=torch.float64),
        X_LENS,
        frame_shift_s=0.04,
        options=BeamOptions(beam=4),
        fusion=fusion,
    )[0][0]
    labels = with_internal.tokens
    total = 0.0
    for u, label in enumerate(labels):
        out = model.predictor(torch.tensor([labels[:u]], dtype=torch.int64))[:, -1]
        total += internal_log_probs(model, model.joiner.predictor_proj(out))[0, label].item()
    assert abs(with_internal.parts["source_lm"] - total) < 1e-9


def test_a_language_model_reads_each_history_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = talkative(tiny_model(vocab_size=3, dtype=torch.float64))
    target = language_model(1)
    read: list[int] = []
    step = LstmSteps.step

    def counted(
        self: LstmSteps, tokens: torch.Tensor, state: State, before: torch.Tensor
    ) -> tuple[torch.Tensor, State]:
        read.append(len(tokens))
        return step(self, tokens, state, before)

    monkeypatch.setattr(LstmSteps, "step", counted)
    x = encoded(2, 20, dtype=torch.float64)
    seen: set[tuple[int, ...]] = set()
    extend = histories.Histories.extend

    def watched(self: histories.Histories, parents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.update(zip(parents.tolist(), labels.tolist(), strict=True))
        return extend(self, parents, labels)

    monkeypatch.setattr(histories.Histories, "extend", watched)
    beam_search(
        model,
        x,
        torch.tensor([20, 20]),
        frame_shift_s=0.04,
        options=BeamOptions(beam=8),
        fusion=Fusion(FusionWeights(target=0.3), target),
    )
    assert sum(read) == len(seen) + 1  # and the empty one


@pytest.mark.parametrize("full_sum", [True, False])
@pytest.mark.parametrize("narrow", [{}, {"score_margin": 1.0, "expand_beam": 1}], ids=["wide", "narrow"])
def test_clearing_histories_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, narrow: dict[str, Any], full_sum: bool
) -> None:
    model = talkative(tiny_model(vocab_size=4, dtype=torch.float64))
    x, lens = encoded(3, 60, dtype=torch.float64), torch.tensor([60, 20, 55])
    fusion = Fusion(
        FusionWeights(0.2, 0.3, 0.1), LstmLanguageModel(4, 8, 1, 4).double(), LstmLanguageModel(4, 8, 1, 4).double()
    )
    options = BeamOptions(beam=6, nbest=6, full_sum=full_sum, **narrow)
    whole = beam_search(model, x, lens, frame_shift_s=0.04, options=options, fusion=fusion)
    cleared: list[int] = []
    clear = histories.Histories.clear

    def counted(self: histories.Histories, rows: torch.Tensor) -> torch.Tensor:
        before = self.size
        place = clear(self, rows)
        cleared.append(before - self.size)
        return place

    monkeypatch.setattr(histories, "SPARE_BYTES", 1)
    monkeypatch.setattr(histories, "STEP_ROWS", 1)
    monkeypatch.setattr(histories, "_with_capacity", filled_with_nan)  # memory that was never written may hold anything
    monkeypatch.setattr(histories.Histories, "clear", counted)
    again = beam_search(model, x, lens, frame_shift_s=0.04, options=options, fusion=fusion)
    assert sum(cleared) > 10
    for a, b in zip(whole, again, strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-10)


def test_rescoring_and_posteriors() -> None:
    model = talkative(tiny_model(vocab_size=3, dtype=torch.float64))
    nbest = beam_search(
        model,
        encoded(1, 8, dtype=torch.float64),
        torch.tensor([8]),
        frame_shift_s=0.04,
        options=BeamOptions(beam=8, nbest=8),
    )[0]
    assert sum(posteriors(nbest)) == pytest.approx(1.0)
    torch.manual_seed(0)
    lm = TransformerLanguageModel(3, 8, 1, 2, 20).double().eval()
    again = rescore(nbest, lm, 2.0, 0.5)
    assert sorted(map(str, (h.tokens for h in again))) == sorted(map(str, (h.tokens for h in nbest)))
    assert [h.score for h in again] == sorted((h.score for h in again), reverse=True)
    for h in again:
        before = next(other for other in nbest if other.tokens == h.tokens)
        tokens, lens = torch.tensor([h.tokens], dtype=torch.int64), torch.tensor([len(h.tokens)])
        log_prob = line_log_probs(lm, tokens, lens, with_end=True).item()
        assert h.score == pytest.approx(before.score + 2.0 * log_prob + 0.5 * len(h.tokens))
    assert rescore([], lm, 1.0, 0.0) == []


def test_forward_probability_is_what_the_beam_sums() -> None:
    model = tiny_model(vocab_size=3, dtype=torch.float64)
    x = encoded(1, 3, dtype=torch.float64)
    for h in beam_search(model, x, torch.tensor([3]), frame_shift_s=0.04, options=EXACT)[0]:
        assert abs(h.parts["am"] - forward_log_prob(model, x, h.tokens)) < 1e-9


def filled_with_nan(table: torch.Tensor, capacity: int) -> torch.Tensor:
    """A table whose new rows are the worst that memory can hold."""
    larger = table.new_full((capacity, *table.shape[1:]), torch.nan if table.is_floating_point() else -1)
    larger[: table.shape[0]] = table
    return larger
