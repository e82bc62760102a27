from __future__ import annotations

from pathlib import Path

import torch

from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.fusion_grid import fusion_grid, grid_table, plot_grid, scored_list
from asrkit.models.language_model import LstmLanguageModel
from tests.conftest import tiny_model
from tests.decoding.test_search import encoded, talkative


def test_the_grid_finds_the_weights_that_help(tmp_path: Path) -> None:
    lists = [
        scored_list(2, [1, 0], am=[-1.0, -2.0], source=[-1.0, -3.0], target=[-6.0, -2.0], length=[3, 3]),
        scored_list(1, [0, 1], am=[-1.0, -2.0], source=[-2.0, -4.0], target=[-2.0, -4.5], length=[1, 3]),
    ]
    points = fusion_grid(lists, [0.0, 0.5], [0.0, 0.5], [0.0, 2.0])
    by_weights = {(p.weights.source, p.weights.target, p.weights.length): p.wer for p in points}
    assert by_weights[0.0, 0.0, 0.0] == 100 / 3  # one of three words
    assert by_weights[0.0, 0.5, 0.0] == 0.0
    assert by_weights[0.0, 0.0, 2.0] == 200 / 3  # the longer one of the second
    assert points[0].wer == 0.0 and points[0].weights == FusionWeights(0.0, 0.5, 0.0)
    tied = fusion_grid(lists[1:], [0.0], [0.0], [-0.2, 0.0, 0.2])
    assert tied[0].weights == FusionWeights()  # of equals the smallest
    assert grid_table(points).splitlines()[1].split() == ["0.00", "33.33", "0.00"]
    more = scored_list(1, [1], am=[0.0], source=[0.0], target=[0.0], length=[1])
    longer = fusion_grid([lists[0], lists[1] + more], [0.0], [0.5], [0.0])
    assert longer[0].wer == 100 / 3  # the added one is the best of the second list now
    plot_grid(points, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 10_000


def test_line_scores_are_what_the_search_added() -> None:
    model = talkative(tiny_model(vocab_size=4, dtype=torch.float64))
    torch.manual_seed(0)
    source, target = (LstmLanguageModel(4, 8, 1, 4).double().eval() for _ in range(2))
    for fusion in (
        Fusion(FusionWeights(0.3, 0.4, 0.1), target, source),
        Fusion(FusionWeights(0.3, 0.4, 0.1), target, None, internal=True),
    ):
        nbest = beam_search(
            model,
            encoded(1, 8, dtype=torch.float64),
            torch.tensor([8]),
            frame_shift_s=0.04,
            options=BeamOptions(beam=6, nbest=6),
            fusion=fusion,
        )[0]
        lens = torch.tensor([len(h.tokens) for h in nbest])
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(h.tokens) for h in nbest], batch_first=True).long()
        by_source, by_target = fusion.line_scores(model, tokens, lens)
        assert torch.allclose(by_source, torch.tensor([h.parts["source_lm"] for h in nbest]).double(), atol=1e-9)
        assert torch.allclose(by_target, torch.tensor([h.parts["target_lm"] for h in nbest]).double(), atol=1e-9)
