"""``asrkit decode --tune-fusion``: the weights of the language models, found on a development set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch
from lhotse.cut import Cut
from torch.nn.utils.rnn import pad_sequence

from asrkit.cli.searches import read_fusion_models
from asrkit.config import FusionConfig
from asrkit.data.loaders import transcript
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.errors import UserError
from asrkit.files import atomic_path, write_text
from asrkit.scoring.fusion_grid import ScoredList, fusion_grid, grid_table, plot_grid, scored_list
from asrkit.training.checkpoint import ModelBundle

SOURCE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
TARGET_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LENGTH_WEIGHTS = (-0.2, 0.0, 0.2, 0.4, 0.6, 0.8)


def tune_fusion(
    bundle: ModelBundle, settings: FusionConfig, decoded: Sequence[tuple[Cut, list[Hypothesis]]], out_dir: Path
) -> FusionConfig:
    """The settings with the weights under which the lists' best hypotheses have the lowest WER.

    Args:
        bundle: the recognizer.
        settings: which language models; a missing source model is shallow fusion.
        decoded: n-best lists without language models.
        out_dir: where fusion_grid.txt and fusion_grid.png go.

    Raises:
        UserError: no language model, or one of other symbols.
    """
    if not (settings.target_lm or settings.source_lm):
        raise UserError("--tune-fusion needs decode.fusion.target_lm=FILE, and source_lm=FILE or source_lm=internal")
    device = bundle.model.joiner.out.weight.device
    fusion = Fusion(FusionWeights(), *read_fusion_models(settings, bundle.tokenizer, device, all_given=True))
    lists = [_scored(bundle, fusion, cut, nbest) for cut, nbest in decoded if nbest]
    sources = SOURCE_WEIGHTS if settings.source_lm else (0.0,)
    targets = TARGET_WEIGHTS if settings.target_lm else (0.0,)
    points = fusion_grid(lists, sources, targets, LENGTH_WEIGHTS)
    best = points[0].weights
    table = grid_table(points)
    write_text(out_dir / "fusion_grid.txt", table + "\n")
    with atomic_path(out_dir / "fusion_grid.png") as temporary:
        plot_grid(points, temporary)
    click.echo(f"WER % of rescored n-best lists, the length weight at its best:\n{table}")
    click.echo(
        f"lowest: {points[0].wer:.2f} % with decode.fusion.source_weight={best.source} "
        f"decode.fusion.target_weight={best.target} decode.fusion.length_weight={best.length}"
    )
    return replace(settings, source_weight=best.source, target_weight=best.target, length_weight=best.length)


@torch.inference_mode()
def _scored(bundle: ModelBundle, fusion: Fusion, cut: Cut, nbest: Sequence[Hypothesis]) -> ScoredList:
    device = bundle.model.joiner.out.weight.device
    tokens = pad_sequence([torch.tensor(h.tokens, dtype=torch.int64) for h in nbest], batch_first=True).to(device)
    lens = torch.tensor([len(h.tokens) for h in nbest], device=device)
    source, target = fusion.line_scores(bundle.model, tokens, lens)
    texts = [bundle.tokenizer.decode(h.tokens) for h in nbest]
    am = [h.parts["am"] for h in nbest]
    return scored_list(transcript(cut), texts, am, source.tolist(), target.tolist(), lens.tolist())
