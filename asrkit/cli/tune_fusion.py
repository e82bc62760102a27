"""``asrkit decode --tune-fusion``: the weights of the language models, found on a development set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from asrkit.decoding.nbest import best_text
from asrkit.errors import UserError
from asrkit.files import atomic_path, write_text
from asrkit.scoring.fusion_grid import ScoredList, fusion_grid, grid_table, plot_grid, scored_list
from asrkit.scoring.wer import word_error_rate
from asrkit.training.checkpoint import ModelBundle
from asrkit.training.parallel import choose_device

SOURCE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TARGET_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LENGTH_WEIGHTS = (-0.2, 0.0, 0.2, 0.4, 0.6, 0.8)
ROUNDS = 4
"""Most choices that are decoded."""

Decoded = Sequence[tuple[Cut, list[Hypothesis]]]


def tune_fusion(
    bundle: ModelBundle, settings: FusionConfig, decode: Callable[[FusionConfig], Decoded], out_dir: Path
) -> FusionConfig:
    """The settings with the weights under which decoding has the lowest WER, of those that the grid suggests.

    The first lists are decoded without language models, and seldom hold what language models would have found. So
    what the grid chooses is decoded, its hypotheses join the lists, and the grid chooses again until its choice has
    been decoded before.

    Args:
        bundle: the recognizer.
        settings: which language models; a missing source model is shallow fusion.
        decode: the n-best lists of the development set with these language models and weights.
        out_dir: where fusion_grid.txt and fusion_grid.png go.

    Raises:
        UserError: no language model, or one of other symbols.
    """
    if not (settings.target_lm or settings.source_lm):
        raise UserError("--tune-fusion needs decode.fusion.target_lm=FILE, and source_lm=FILE or source_lm=internal")
    device = choose_device("auto")  # where decoding puts the recognizer
    bundle.model.to(device)
    fusion = Fusion(FusionWeights(), *read_fusion_models(settings, bundle.tokenizer, device, all_given=True))
    sources = SOURCE_WEIGHTS if settings.source_lm else (0.0,)
    targets = TARGET_WEIGHTS if settings.target_lm else (0.0,)
    lists: dict[str, ScoredList] = {}
    seen: set[tuple[str | int, ...]] = set()  # of cuts and labels
    rates: dict[FusionWeights, float] = {}
    weights, report = FusionWeights(), []
    for _ in range(ROUNDS + 1):
        decoded = decode(_weighted(settings, weights))
        rates[weights] = word_error_rate(
            (transcript(cut), best_text(nbest, bundle.tokenizer)) for cut, nbest in decoded
        )
        report.append(f"decoded: {rates[weights]:.2f} % with {_options(weights)}")
        click.echo(report[-1])
        for cut, nbest in decoded:
            new = [h for h in nbest if (cut.id, *h.tokens) not in seen]
            if new:
                seen.update((cut.id, *h.tokens) for h in new)
                scored = _scored(bundle, fusion, cut, new)
                lists[cut.id] = lists[cut.id] + scored if cut.id in lists else scored
        points = fusion_grid(list(lists.values()), sources, targets, LENGTH_WEIGHTS)
        weights = points[0].weights
        if weights in rates:
            break
        report.append(f"rescored: {points[0].wer:.2f} % with {_options(weights)}")
        click.echo(report[-1])
    best = min(rates, key=lambda tried: rates[tried])
    table = f"WER % of the lists rescored, the length weight at its best:\n{grid_table(points)}"
    report += [table, f"lowest: {rates[best]:.2f} % with {_options(best)}"]
    click.echo("\n".join(report[-2:]))
    write_text(out_dir / "fusion_grid.txt", "\n".join(report) + "\n")
    with atomic_path(out_dir / "fusion_grid.png") as temporary:
        plot_grid(points, temporary)
    return _weighted(settings, best)


def _weighted(settings: FusionConfig, weights: FusionWeights) -> FusionConfig:
    return replace(settings, source_weight=weights.source, target_weight=weights.target, length_weight=weights.length)


def _options(weights: FusionWeights) -> str:
    return (
        f"decode.fusion.source_weight={weights.source} decode.fusion.target_weight={weights.target} "
        f"decode.fusion.length_weight={weights.length}"
    )


@torch.inference_mode()
def _scored(bundle: ModelBundle, fusion: Fusion, cut: Cut, nbest: Sequence[Hypothesis]) -> ScoredList:
    device = bundle.model.joiner.out.weight.device
    tokens = pad_sequence([torch.tensor(h.tokens, dtype=torch.int64) for h in nbest], batch_first=True).to(device)
    lens = torch.tensor([len(h.tokens) for h in nbest], device=device)
    source, target = fusion.line_scores(bundle.model, tokens, lens)
    texts = [bundle.tokenizer.decode(h.tokens) for h in nbest]
    am = [h.parts["am"] for h in nbest]
    return scored_list(transcript(cut), texts, am, source.tolist(), target.tolist(), lens.tolist())
