"""Tuning the weights of language models in a search on a development set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lhotse.cut import Cut
from torch.nn.utils.rnn import pad_sequence

from asrkit.bundle.model_file import ModelBundle
from asrkit.config import FusionConfig
from asrkit.data.transcripts import transcript
from asrkit.decoding.density_ratio import Fusion, FusionWeights
from asrkit.decoding.fusion_grid import GridPoint, ScoredList, fusion_grid, grid_table, plot_grid, scored_list
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.nbest import best_text
from asrkit.decoding.search import read_fusion_models
from asrkit.devices import choose_device
from asrkit.errors import UserError
from asrkit.files import atomic_path, write_text
from asrkit.models.transducer import Transducer

SOURCE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TARGET_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LENGTH_WEIGHTS = (-0.2, 0.0, 0.2, 0.4, 0.6, 0.8)
ROUNDS = 4
"""Most weights that are decoded, in addition to none."""

Lists = Sequence[tuple[Cut, list[Hypothesis]]]
CountErrors = Callable[[str, str], int]
"""Word errors of a hypothesis, from its reference and text."""


def tune_fusion(
    bundle: ModelBundle[Transducer],
    settings: FusionConfig,
    decode: Callable[[FusionConfig], Lists],
    count_errors: CountErrors,
    out_dir: Path,
    say: Callable[[str], None],
) -> FusionConfig:
    """The settings with the weights, of those that the grid suggests, with the lowest WER in decoding.

    The first lists are decoded without language models, and rarely contain the best hypotheses of language models. So
    the grid's choice is decoded, its hypotheses are added to the lists, and the grid chooses again, until its choice
    has been decoded before.

    Args:
        bundle: the recognizer.
        settings: the language models; a missing source model means shallow fusion.
        decode: gives the n-best lists of the development set with these language models and weights.
        count_errors: counts the word errors of a hypothesis.
        out_dir: folder of fusion_grid.txt and fusion_grid.png.
        say: called with each line of the report.

    Raises:
        UserError: no language model, or one with other symbols.
    """
    if not (settings.target_lm or settings.source_lm):
        raise UserError("--tune-fusion needs decode.fusion.target_lm=FILE, and source_lm=FILE or source_lm=internal")
    device = choose_device("auto")  # as in decoding
    bundle.model.to(device)
    fusion = Fusion(FusionWeights(), *read_fusion_models(settings, bundle.tokenizer, device, all_given=True))
    pool = _Pool(bundle, fusion, count_errors)
    rates: dict[FusionWeights, float] = {}
    weights, lines = FusionWeights(), []

    def report_line(line: str) -> None:
        lines.append(line)
        say(line)

    for _ in range(ROUNDS + 1):
        decoded = decode(_weighted(settings, weights))
        rates[weights] = pool.error_rate(decoded)
        report_line(f"decoded: {rates[weights]:.2f} % with {_options(weights)}")
        pool.add(decoded)
        points = pool.grid(settings)
        weights = points[0].weights
        if weights in rates:
            break
        report_line(f"rescored: {points[0].wer:.2f} % with {_options(weights)}")
    best = min(rates, key=lambda choice: rates[choice])
    report_line(f"WER % of the lists rescored, the length weight at its best:\n{grid_table(points)}")
    report_line(f"lowest: {rates[best]:.2f} % with {_options(best)}")
    write_text(out_dir / "fusion_grid.txt", "\n".join(lines) + "\n")
    with atomic_path(out_dir / "fusion_grid.png") as temporary:
        plot_grid(points, temporary)
    return _weighted(settings, best)


class _Pool:
    """All distinct hypotheses decoded so far, with their scores for a grid of weights."""

    def __init__(self, bundle: ModelBundle[Transducer], fusion: Fusion, count_errors: CountErrors) -> None:
        self.bundle, self.fusion, self.count_errors = bundle, fusion, count_errors
        self.lists: dict[str, ScoredList] = {}
        self.seen: set[tuple[str | int, ...]] = set()
        """Cut and labels of each hypothesis."""

    def error_rate(self, decoded: Lists) -> float:
        """WER in percent of the first hypotheses."""
        texts = [(transcript(cut), best_text(nbest, self.bundle.tokenizer)) for cut, nbest in decoded]
        words = sum(len(reference.split()) for reference, _ in texts)
        return 100.0 * sum(self.count_errors(*pair) for pair in texts) / max(1, words)

    def add(self, decoded: Lists) -> None:
        """Adds new hypotheses."""
        for cut, nbest in decoded:
            new = [h for h in nbest if (cut.id, *h.tokens) not in self.seen]
            if new:
                self.seen.update((cut.id, *h.tokens) for h in new)
                scored = self._scored(cut, new)
                self.lists[cut.id] = self.lists[cut.id] + scored if cut.id in self.lists else scored

    def grid(self, settings: FusionConfig) -> list[GridPoint]:
        """WER at every combination of the weights of the models in use, the lowest first."""
        sources = SOURCE_WEIGHTS if settings.source_lm else (0.0,)
        targets = TARGET_WEIGHTS if settings.target_lm else (0.0,)
        return fusion_grid(list(self.lists.values()), sources, targets, LENGTH_WEIGHTS)

    @torch.inference_mode()
    def _scored(self, cut: Cut, nbest: Sequence[Hypothesis]) -> ScoredList:
        model, tokenizer, reference = self.bundle.model, self.bundle.tokenizer, transcript(cut)
        tokens = pad_sequence([torch.tensor(h.tokens, dtype=torch.int64) for h in nbest], batch_first=True)
        lens = torch.tensor([len(h.tokens) for h in nbest], device=model.device)
        source, target = self.fusion.line_scores(model, tokens.to(model.device), lens)
        errors = [self.count_errors(reference, tokenizer.decode(h.tokens)) for h in nbest]
        am = [h.parts["am"] for h in nbest]
        return scored_list(len(reference.split()), errors, am, source.tolist(), target.tolist(), lens.tolist())


def _weighted(settings: FusionConfig, weights: FusionWeights) -> FusionConfig:
    return replace(settings, source_weight=weights.source, target_weight=weights.target, length_weight=weights.length)


def _options(weights: FusionWeights) -> str:
    return (
        f"decode.fusion.source_weight={weights.source} decode.fusion.target_weight={weights.target} "
        f"decode.fusion.length_weight={weights.length}"
    )
