"""N-best label smoothing: hypotheses of a recognizer sometimes replace a transcript.

Cui et al. 2022, "Improving generalization of deep neural network acoustic models with length perturbation and
n-best based label smoothing", arXiv 2203.15176, section 3. For each presentation, g ~ U[0, 1] is drawn; if
g > 1 - ε, one of the K hypotheses replaces the reference, each with the same probability. The expected loss is
(1 - ε) L(x, y) + (ε / K) Σ_i L(x, y_i).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lhotse.cut import Cut

from asrkit.data.cut_files import read_cuts
from asrkit.data.transcripts import encode_hypothesis
from asrkit.errors import UserError
from asrkit.features.augmentation import chosen
from asrkit.randomness import seeded_generator
from asrkit.text.tokenizer import Tokenizer

SMOOTHING = "nbest_label_smoothing"
"""Its name among the augmentations."""


@dataclass(frozen=True)
class NbestLabelSmoothing:
    """Swaps transcripts at random."""

    hypotheses: Mapping[str, Sequence[Sequence[int]]]
    """Labels of the hypotheses by utterance id, best first."""
    probability: float
    """ε."""
    num_hypotheses: int
    """K, or the length of an utterance's list if that is shorter."""
    from_epoch: int = 1
    until_epoch: int = 0
    """Last epoch with smoothing; 0 for no end."""

    def longest(self, id: str) -> int:
        """Most labels of the hypotheses that may replace the transcript."""
        return max((len(labels) for labels in self.hypotheses.get(id, [])[: self.num_hypotheses]), default=0)

    def __call__(self, labels: list[int], cut: Cut, seed: int, epoch: int, draw: int = 0) -> tuple[list[int], bool]:
        """The labels of this presentation, which follows ``draw`` others in the epoch, and whether they were swapped.

        Raises:
            UserError: the utterance has no list.
        """
        if epoch < self.from_epoch or (self.until_epoch and epoch > self.until_epoch):
            return labels, False
        generator = seeded_generator("nbest", seed, epoch, cut.id, *([draw] if draw else []))
        if not chosen(self.probability, generator):
            return labels, False
        if cut.id not in self.hypotheses:
            raise UserError(f"{cut.id} has no n-best list; run asrkit nbest on this training set again")
        candidates = self.hypotheses[cut.id][: self.num_hypotheses]
        if not candidates:
            return labels, False
        return list(candidates[int(torch.randint(len(candidates), (), generator=generator))]), True


def read_hypotheses(path: Path, tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
    """n-best lists by utterance id from a CutSet that ``asrkit nbest`` wrote.

    Hypotheses that are empty or cannot be spelled are excluded.

    Raises:
        UserError: the file is missing or unreadable, or a cut has no list.
    """
    if not path.is_file():
        raise UserError(f"nbest_label_smoothing.hypotheses: there is no file {path}; make it with asrkit nbest")
    hypotheses = {}
    for cut in read_cuts(path, stage="asrkit nbest"):
        if not cut.has_custom("hypotheses"):
            raise UserError(f"{path}: {cut.id} has no n-best list; make the file with asrkit nbest")
        hypotheses[cut.id] = [
            labels for item in cut.hypotheses if (labels := encode_hypothesis(tokenizer, item["text"]))
        ]
    return hypotheses
