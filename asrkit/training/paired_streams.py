"""Updates from two streams, labelled and unlabelled speech, drawn independently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from asrkit.data.batching import Batch, EpochPlan, Part
from asrkit.data.loaders import BatchDataset, StepDataset
from asrkit.lazy import LazySequence
from asrkit.randomness import seeded_generator
from asrkit.training.phase import Phase
from asrkit.training.speech import SupervisedSteps
from asrkit.training.task import Step

EXPLORATION = "exploration"
"""Phase that minimises g alone."""


@dataclass(frozen=True)
class PairedPart:
    """The utterances of one forward pass from both streams."""

    labelled: Part
    unlabelled: Part
    counts: tuple[bool, bool] = (True, True)
    """Whether each stream's utterances count; stand-ins do not, but all processes must take part in an update."""

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def __getitem__(self, rows: slice) -> PairedPart:
        return PairedPart(self.labelled[rows], self.unlabelled[rows], self.counts)


NOBODY = np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class PairedDataset(StepDataset):
    """Batches by step, from parts of both streams."""

    labelled: BatchDataset
    unlabelled: BatchDataset
    steps: Sequence[Sequence[PairedPart]]

    def load(self, part: PairedPart) -> Batch:
        """Reads the utterances of one part; see :meth:`StepDataset.load`."""
        unlabelled = self._load_unlabelled(part) if len(part.unlabelled) else None
        if not len(part.labelled):
            assert unlabelled is not None
            return unlabelled
        return replace(self.labelled.load(part.labelled), unlabelled=unlabelled, counts=part.counts[0])

    def _load_unlabelled(self, part: PairedPart) -> Batch:
        batch, stream = self.unlabelled.load(part.unlabelled), "joint" if len(part.labelled) else EXPLORATION
        seeds = mask_seeds(batch, part.unlabelled, stream, self.labelled.seed, self.labelled.epoch or 0)
        return replace(batch, seeds=seeds, counts=part.counts[1])


def mask_seeds(batch: Batch, part: Part, stream: str, seed: int, epoch: int) -> list[int]:
    """Seeds of the mask of each utterance of a part in a pass through the unlabelled speech."""
    drawn = zip(batch.utterance_ids, part[:, 1].tolist(), strict=True)
    return [seeded_generator("unsupervised", stream, seed, epoch, id, draw).initial_seed() for id, draw in drawn]


@dataclass(frozen=True)
class JointSteps(LazySequence[Step]):
    """Exploration, then updates on labelled utterances, each with unlabelled ones if γ is above 0."""

    explored: EpochPlan | None
    num_explored: int
    joint: SupervisedSteps | None
    paired: EpochPlan | None
    """None if no update reads unlabelled utterances, like ``explored``."""
    exploration: Phase
    num_labels: np.ndarray
    """Labels of each labelled utterance."""

    def __len__(self) -> int:
        return self.num_explored + (len(self.joint) if self.joint else 0)

    def item(self, number: int) -> Step:
        """An update."""
        if number < self.num_explored:
            assert self.explored is not None
            update = _pass(self.explored, number)
            return Step([PairedPart(NOBODY, part) for part in update], sum(map(len, update)), self.exploration)
        assert self.joint is not None
        step = self.joint[number - self.num_explored]
        if step.phase.penalty == 0:
            return replace(step, parts=[PairedPart(part, NOBODY) for part in step.parts])
        assert self.paired is not None
        update = _pass(self.paired, number - self.num_explored)
        # The update is divided by its labelled utterances, so g is multiplied by their mean number of labels: γ weighs
        # g against the loss of a label.
        labels = sum(int(self.num_labels[part[:, 0]].sum()) for part in step.parts)
        weight = step.phase.penalty * labels / sum(map(len, update))
        parts = [
            PairedPart(
                labelled if len(labelled) else step.parts[0][:1],
                unlabelled if len(unlabelled) else update[0][:1],
                (len(labelled) > 0, len(unlabelled) > 0),
            )
            for labelled, unlabelled in zip(step.parts, update, strict=True)
        ]
        return replace(step, parts=parts, phase=replace(step.phase, penalty=weight))


def _pass(plan: EpochPlan, number: int) -> list[Part]:
    """An update of a repeated plan; each pass presents its utterances again."""
    passes, step = divmod(number, len(plan))
    return [part + np.array([0, passes]) for part in plan[step]]
