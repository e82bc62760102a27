"""BL-JUST: bilevel joint unsupervised and supervised training (Cui et al. 2024, arXiv 2412.08548, algorithm 1).

The backbone θ (the encoder) and the supervised head φ minimise the supervised loss f(θ, φ), subject to θ minimising,
with the unsupervised head η, the loss g(θ, η) of speech without transcripts. The constraint becomes a penalty: with the
least value v of g, which is a constant,

    min f(θ, φ) + γ (g(θ, η) − v).

Epoch k of K explores first, with updates of (θ, η) by ∇g alone, and then makes joint updates

    (θ, φ, η) ← (θ, φ, η) − α (∇f + γ_k ∇g),    γ_k = (k − 1) γ_max / K,

each from a labelled and an unlabelled batch drawn independently ("double sampling"). So θ gets both gradients, φ that
of f and η that of g. After epoch K, f alone is fine-tuned. An update's g is the mean over its unlabelled utterances, f
over its labelled ones.

All phases share one optimizer: a parameter without a gradient is left as it is, weight decay and moments included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from asrkit.bundle.build import feature_dim
from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import ModelBundle
from asrkit.config import Config
from asrkit.config_unsupervised import BlJustConfig
from asrkit.data.batching import Batch, BatchBudget, EpochPlan, Part, plan_epoch
from asrkit.data.folder import DataFolder
from asrkit.data.index import CutIndex, open_index
from asrkit.data.loaders import BatchDataset, LoaderError, iterate
from asrkit.distributed.learners import Learners
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.losses.best_rq import stack_for_encoder
from asrkit.models.encoder import Encoder
from asrkit.models.transducer import Transducer
from asrkit.training.objective import Losses, LossPart
from asrkit.training.phase import Phase
from asrkit.training.schedules import learning_rate
from asrkit.training.speech import SpeechTask, SupervisedSteps
from asrkit.training.speech_data import TrainingData
from asrkit.training.task import Step
from asrkit.training.unsupervised import BestRqObjective, CpcObjective, unsupervised_objective

EXPLORATION = "exploration"
"""Phase in which g alone is minimised."""
G = "unsupervised"
"""Name of g among the parts of the loss."""
NO_LIMIT = 1 << 62
PCA_FRAMES = 20_000
"""Encoder frames that principal components are taken of, at most."""
DIAGNOSED = 16
"""Utterances that f, g and their gradients are measured on."""


def gamma(epoch: int, num_epochs: int, config: BlJustConfig) -> float:
    """γ_k of epoch k = ``epoch`` of K = ``num_epochs``: from 0 in steps of γ_max / K, or γ_max throughout."""
    if config.gamma_schedule == "constant":
        return config.max_gamma
    return (epoch - 1) * config.max_gamma / num_epochs


@dataclass(frozen=True)
class PairedPart:
    """The utterances of one forward pass from both streams."""

    labelled: Part
    unlabelled: Part
    explores: bool = False
    """Whether the unlabelled ones are what counts."""

    def __len__(self) -> int:
        return len(self.unlabelled if self.explores else self.labelled)

    def __getitem__(self, rows: slice) -> PairedPart:
        return PairedPart(self.labelled[rows], self.unlabelled[rows], self.explores)


NOBODY = np.zeros((0, 2), np.int64)


class BilevelObjective(nn.Module):
    """f, g, or f + γ g, by the phase.

    Args:
        supervised: f, with the part of φ that is not shipped.
        unsupervised: g, with η.
    """

    def __init__(self, supervised: nn.Module, unsupervised: nn.Module) -> None:
        super().__init__()
        self.supervised, self.unsupervised = supervised, unsupervised

    def forward(self, model: Transducer, batch: Batch, phase: Phase) -> Losses:
        """The losses of a batch; g is not seen by φ, nor f by η."""
        if phase.name == EXPLORATION:
            g = self.unsupervised(model.encoder, batch.features, batch.feature_lens).sum()
            return Losses(g, len(batch.feature_lens), {}, name=G)
        losses: Losses = self.supervised(model, batch, phase)
        if phase.penalty == 0 or batch.unlabelled is None:
            return losses
        other = batch.unlabelled
        g = self.unsupervised(model.encoder, other.features, other.feature_lens)
        part = LossPart(g.detach().sum(), len(g))
        # An update is the mean over its labelled utterances, so the mean of g counts once for each of them.
        total = losses.total + phase.penalty * losses.number * g.mean()
        return replace(losses, total=total, parts={"supervised": _part(losses), **losses.parts, G: part})


def _part(losses: Losses) -> LossPart:
    return LossPart(losses.total.detach(), losses.number)


@dataclass(frozen=True)
class PairedDataset(Dataset[list[Batch] | LoaderError]):
    """Batches by step, of parts from both streams."""

    labelled: BatchDataset
    unlabelled: BatchDataset
    steps: Sequence[Sequence[PairedPart]]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> list[Batch] | LoaderError:
        try:
            return [self._load(part) for part in self.steps[step]]
        except UserError as error:
            return LoaderError(str(error))

    def _load(self, part: PairedPart) -> Batch:
        unlabelled = self.unlabelled.load(part.unlabelled) if len(part.unlabelled) else None
        if part.explores:
            assert unlabelled is not None
            return unlabelled
        return replace(self.labelled.load(part.labelled), unlabelled=unlabelled)


@dataclass(frozen=True)
class JointSteps(Sequence[Step]):
    """Exploration, then updates on labelled utterances, each with unlabelled ones where γ is above 0."""

    explored: EpochPlan
    num_explored: int
    joint: SupervisedSteps | None
    paired: EpochPlan
    exploration: Phase

    def __len__(self) -> int:
        return self.num_explored + (len(self.joint) if self.joint else 0)

    @overload
    def __getitem__(self, number: int) -> Step: ...
    @overload
    def __getitem__(self, number: slice) -> list[Step]: ...
    def __getitem__(self, number: int | slice) -> Step | list[Step]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        if number < self.num_explored:
            update = self.explored[number % len(self.explored)]
            parts = [PairedPart(NOBODY, part, explores=True) for part in update]
            return Step(parts, sum(map(len, update)), self.exploration)
        assert self.joint is not None
        step = self.joint[number - self.num_explored]
        if step.phase.penalty == 0:
            return replace(step, parts=[PairedPart(part, NOBODY) for part in step.parts])
        other = self.paired[(number - self.num_explored) % len(self.paired)]
        unlabelled = [part if len(part) else other[0][:1] for part in other]
        return replace(step, parts=[PairedPart(a, b) for a, b in zip(step.parts, unlabelled, strict=True)])


class BilevelTask(SpeechTask):
    """Trains a transducer on speech with and without transcripts; see :class:`asrkit.training.task.Task`.

    Args:
        bundle: the recognizer.
        data: its labelled speech.
        objective: f and g.
        learners: who train together.
        exp_dir: where the final model goes.
        unlabelled: speech without transcripts.
        pipeline: its features, without augmentation: BEST-RQ masks its input itself.
    """

    def __init__(
        self,
        bundle: ModelBundle[Transducer],
        data: TrainingData,
        objective: BilevelObjective,
        learners: Learners,
        exp_dir: Path,
        unlabelled: CutIndex,
        pipeline: FeaturePipeline,
    ) -> None:
        super().__init__(bundle, data, objective, learners, exp_dir)
        self.bl_just, self.unlabelled, self.unlabelled_pipeline = bundle.config.bl_just, unlabelled, pipeline
        self.objective = objective
        self.first = self.bl_just.pretraining_epochs
        self.last = self.first + self.settings.num_epochs
        self.num_epochs = self.last + self.bl_just.fine_tuning_epochs
        self.unlabelled_budget = BatchBudget(
            batch_seconds=self.bl_just.batch_seconds,
            lattice_budget=NO_LIMIT,
            parts=self.budget.parts,
            vocab_size=1,
            frame_shift_s=self.budget.frame_shift_s,
        )
        longest = float(unlabelled.durations_s.max())
        if longest > self.bl_just.batch_seconds:
            raise UserError(
                f"an unlabelled utterance lasts {longest:.1f} s, more than bl_just.batch_seconds="
                f"{self.bl_just.batch_seconds:g}; raise it, or prepare them with --max-seconds"
            )

    def plan(self, epoch: int) -> Sequence[Step]:
        """All updates of an epoch: pre-training, exploration and joint updates, or fine-tuning."""
        settings, joint = self.bl_just, self.first < epoch <= self.last
        explored, paired = self._plan_unlabelled("exploration", epoch), self._plan_unlabelled("joint", epoch)
        share = 1.0 if epoch <= self.first else settings.exploration if joint else 0.0
        scale = settings.exploration_lr_scale if joint else 1.0
        supervised: SupervisedSteps | None = None
        if epoch > self.first:
            supervised = SupervisedSteps(self.plan_updates(epoch), self.supervised_phase(epoch))
        return JointSteps(
            explored,
            round(share * len(explored)),
            supervised,
            paired,
            Phase(EXPLORATION, all_used=False, lr_scale=scale),
        )

    def _plan_unlabelled(self, stream: str, epoch: int) -> EpochPlan:
        seconds, settings = self.unlabelled.durations_s, self.settings
        return plan_epoch(
            seconds,
            np.zeros(len(seconds), np.int32),
            self.unlabelled_budget,
            seed=settings.seed,
            epoch=epoch,
            num_buckets=settings.num_buckets,
            stream=stream,
        )

    def supervised_phase(self, epoch: int) -> Phase:
        """What an epoch of transcribed speech minimises, with γ_k as the penalty's weight before fine-tuning."""
        phase, k = super().supervised_phase(epoch - self.first), epoch - self.first
        penalty = gamma(k, self.settings.num_epochs, self.bl_just) if 0 < k <= self.settings.num_epochs else 0.0
        return replace(phase, penalty=penalty, all_used=phase.all_used and penalty > 0)

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """The rate in an epoch, from 1, of which a fraction is done: each of the three stages has a schedule."""
        settings = self.bl_just
        if epoch <= self.first:
            return learning_rate(settings.pretraining_schedule, epoch, fraction, self.first)
        if epoch > self.last:
            rest = self.num_epochs - self.last
            return learning_rate(settings.fine_tuning_schedule, epoch - self.last, fraction, rest)
        return super().learning_rate(epoch - self.first, fraction)

    def batches(self, parts: Sequence[Sequence[Any]], epoch: int, first: int) -> Iterator[list[Batch] | LoaderError]:
        """Batches of this learner's parts of each step, from step ``first`` on."""
        unlabelled = BatchDataset(self.unlabelled, [], self.unlabelled_pipeline)
        dataset = PairedDataset(self.dataset([], epoch), unlabelled, parts)
        return iterate(dataset, self.settings.num_workers, first)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Utterances, seconds of speech, and hits of each augmentation; unlabelled speech apart."""
        labelled = bool(batch.tokens.numel())
        other = batch.unlabelled if labelled else batch
        found = super().counts(batch) if labelled else {}
        if other is not None:
            found["unlabelled_s"] = float(sum(cut.duration for cut in other.cuts))
        return found

    def status(self, sums: Mapping[str, float], seconds: float) -> str:
        """Mean losses and speed."""
        speech_s = (sums.get("speech_s", 0.0) + sums.get("unlabelled_s", 0.0)) * self.learners.world_size
        means = [f"{short} {_mean(sums, name):.3f}" for short, name in (("f", "loss"), ("g", G)) if _number(sums, name)]
        return f"{', '.join(means)}, {speech_s / seconds / 3600:.3f} h of speech/s"

    def measure(self, epoch: int) -> float | None:
        """WER, or CER, of greedy search on dev, in percent; not while there is no supervised training."""
        return super().measure(epoch) if epoch > self.first + self.config.loss.ctc_only_epochs else None

    def epoch_values(self, sums: Mapping[str, float]) -> dict[str, Any]:
        """What an epoch saw, and f, g and the norms of their gradients by θ after it."""
        values = super().epoch_values(sums)
        return values | {"unlabelled_s": round(sums.get("unlabelled_s", 0.0), 2), "bl_just": self.diagnose()}

    def diagnose(self) -> dict[str, float]:
        """f and g of a few utterances, the same in all epochs, without augmentation, and ‖∇f‖ and ‖∇g‖ by θ."""
        model, device = self.bundle.model, self.learners.device
        rows = np.stack([np.arange(DIAGNOSED), np.zeros(DIAGNOSED, np.int64)], axis=1)
        labelled = replace(self.dataset([], 1), epoch=None, views=1, smoothing=None).load(rows[: len(self.data.train)])
        others = BatchDataset(self.unlabelled, [], self.unlabelled_pipeline).load(rows[: len(self.unlabelled)])
        parameters = [p for p in model.encoder.parameters() if p.requires_grad]
        training = self.module.training
        self.module.eval()
        found: dict[str, float] = {}
        with torch.random.fork_rng([] if device.type == "cpu" else [device]), torch.enable_grad():
            torch.manual_seed(0)  # the same masks in all epochs
            for name, batch, phase in (("f", labelled, self._upper_phase()), ("g", others, Phase(EXPLORATION))):
                losses = self.module(batch.to(device), phase)
                mean = losses.total / losses.number
                gradients = torch.autograd.grad(mean, parameters, allow_unused=True)
                norms = [gradient.norm() for gradient in gradients if gradient is not None]
                found[name] = round(mean.item(), 5)
                found[f"gradient_{name}"] = round(torch.stack(norms).norm().item(), 6)
        self.module.train(training)
        return found

    def _upper_phase(self) -> Phase:
        return SpeechTask.supervised_phase(self, self.num_epochs)

    def summary(self, values: Mapping[str, Any]) -> str:
        """An epoch in one line."""
        after = values["bl_just"]
        return (
            f"{super().summary(values)}, f {after['f']:.3f}, g {after['g']:.3f}, "
            f"gradients {after['gradient_f']:.3g} and {after['gradient_g']:.3g}"
        )


def _number(sums: Mapping[str, float], name: str) -> float:
    return sums.get(f"number/{name}", 0.0)


def _mean(sums: Mapping[str, float], name: str) -> float:
    return sums[f"loss/{name}"] / _number(sums, name)


def read_unlabelled(config: Config, bundle: ModelBundle[Transducer]) -> tuple[CutIndex, FeaturePipeline]:
    """Speech without transcripts, and how it becomes model input: with the labelled speech's normalization.

    Raises:
        UserError: no folder is given, or it cannot be read.
    """
    if not config.bl_just.unlabelled_dir:
        raise UserError(f"bl_just.loss={config.bl_just.loss} needs bl_just.unlabelled_dir, prepared speech")
    folder = DataFolder(Path(config.bl_just.unlabelled_dir))
    statistics = folder.load_statistics() | bundle.statistics
    return open_index(folder, "train"), build_pipeline(config, statistics)


def bilevel_objective(
    config: Config, supervised: nn.Module, encoder: Encoder, unlabelled: CutIndex, pipeline: FeaturePipeline
) -> BilevelObjective:
    """f with the g of the settings.

    Raises:
        UserError: settings that contradict each other.
    """
    width, frames = feature_dim(config), None
    if config.bl_just.loss == "best_rq" and config.bl_just.best_rq.projection == "pca":
        frames = _input_of_frames(unlabelled, pipeline, encoder.subsampling)
    unsupervised: BestRqObjective | CpcObjective = unsupervised_objective(config, encoder, width, frames)
    return BilevelObjective(supervised, unsupervised)


def _input_of_frames(unlabelled: CutIndex, pipeline: FeaturePipeline, subsampling: int) -> torch.Tensor:
    """(N, s·F) input of the first encoder frames."""
    found: list[torch.Tensor] = []
    for cut in unlabelled:
        x, _ = pipeline(cut)
        found.append(stack_for_encoder(x[None], subsampling, len(x) // subsampling)[0])
        if sum(map(len, found)) >= PCA_FRAMES:
            break
    return torch.cat(found)
