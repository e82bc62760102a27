"""BL-JUST: bilevel joint unsupervised and supervised training (Cui et al. 2024, arXiv 2412.08548, algorithm 1).

The backbone θ (the encoder) and the supervised head φ minimise the supervised loss f(θ, φ), subject to θ and the
unsupervised head η minimising the loss g(θ, η) on speech without transcripts. The constraint becomes a penalty, with v
the minimum of g, a constant:

    min f(θ, φ) + γ (g(θ, η) − v).

Epoch k of K first explores, updating (θ, η) by ∇g alone, and then makes joint updates

    (θ, φ, η) ← (θ, φ, η) − α (∇f + γ_k ∇g),    γ_k = (k − 1) γ_max / K,

each from a labelled and an unlabelled batch drawn independently ("double sampling"). So θ gets both gradients, φ that
of f and η that of g. After epoch K, fine-tuning minimises f alone.

For γ, an update's f is the mean over its labels, as in PyTorch's CTC loss, and its g the mean over its unlabelled
utterances of their mean over frames, regardless of process. All of it is multiplied by the labels of an utterance, so
that without a penalty the update is the supervised one.

Exploration and pre-training keep their own moments. With shared ones, those of ∇f, hundreds of times as large as ∇g,
would stop exploration, and those of ∇g would spoil the supervised updates that follow. A parameter without a gradient
is neither updated nor decayed.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from asrkit.bundle.build import feature_dim
from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import ModelBundle
from asrkit.config import Config
from asrkit.config_unsupervised import BlJustConfig
from asrkit.data.batching import Batch, BatchBudget, EpochPlan, plan_epoch
from asrkit.data.folder import DataFolder
from asrkit.data.index import CutIndex, durations_of, open_index
from asrkit.data.loaders import BatchDataset, LoaderError, iterate
from asrkit.distributed.learners import Learners, raise_together
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.models.encoder import Encoder
from asrkit.models.transducer import Transducer
from asrkit.training.objective import Losses, LossPart
from asrkit.training.paired_streams import EXPLORATION, JointSteps, PairedDataset, mask_seeds
from asrkit.training.phase import Phase
from asrkit.training.schedules import learning_rate
from asrkit.training.speech import SpeechTask, SupervisedSteps
from asrkit.training.speech_data import TrainingData
from asrkit.training.task import Step
from asrkit.training.unsupervised import CpcObjective, unsupervised_objective

G = "unsupervised"
"""Name of g among the loss parts."""
NO_LIMIT = 1 << 62
DIAGNOSED = 16
"""Utterances on which f, g and their gradients are measured after an epoch."""


def gamma(epoch: int, num_epochs: int, config: BlJustConfig) -> float:
    """γ_k of epoch k = ``epoch`` of K = ``num_epochs``: from 0 in steps of γ_max / K, or γ_max throughout."""
    if config.gamma_schedule == "constant":
        return config.max_gamma
    return (epoch - 1) * config.max_gamma / num_epochs


class BilevelObjective(nn.Module):
    """f, g or f + γ g, by phase.

    Args:
        supervised: f, with the unshipped part of φ.
        unsupervised: g, with η.
    """

    def __init__(self, supervised: nn.Module, unsupervised: nn.Module) -> None:
        super().__init__()
        self.supervised, self.unsupervised = supervised, unsupervised

    def forward(self, model: Transducer, batch: Batch, phase: Phase) -> Losses:
        """The losses of a batch; φ does not see g, nor η f.

        ``phase.penalty`` is the weight of the sum of g: γ times labels over unlabelled utterances of the update, whose
        loss is divided by the labelled ones.
        """
        if phase.name == EXPLORATION:
            g = self._sum_of_g(model, batch)
            return Losses(g, len(batch.feature_lens), {}, name=G)
        losses: Losses = self.supervised(model, batch, phase)
        if not batch.counts:
            parts = {name: LossPart(0 * part.total, 0) for name, part in losses.parts.items()}
            losses = replace(losses, total=0.0 * losses.total, number=0, parts=parts)
        if phase.penalty == 0 or batch.unlabelled is None:
            return losses
        other = batch.unlabelled
        g = self._sum_of_g(model, other) * float(other.counts)
        parts = {"supervised": LossPart(losses.total.detach(), losses.number), **losses.parts}
        parts[G] = LossPart(g.detach(), len(other.feature_lens) * other.counts)
        return replace(losses, total=losses.total + phase.penalty * g, parts=parts)

    def _sum_of_g(self, model: Transducer, batch: Batch) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
        losses: torch.Tensor = self.unsupervised(model.encoder, batch.features, batch.feature_lens, generators)
        return losses.sum()


class BilevelTask(SpeechTask):
    """Trains a transducer on speech with and without transcripts; see :class:`asrkit.training.task.Task`.

    Args:
        bundle: the recognizer.
        data: its labelled speech.
        objective: f and g.
        learners: those training together.
        exp_dir: where the final model goes.
        unlabelled: speech without transcripts.
        pipeline: its features, without augmentation, as BEST-RQ masks its own input.
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
        self.after: dict[str, float] = {}
        """Results of :meth:`diagnose` after the last epoch."""
        self.last = self.first + self.settings.num_epochs
        self.num_epochs = self.last + self.bl_just.fine_tuning_epochs
        self.averaged = min(self.averaged, self.num_epochs - self.last or self.settings.num_epochs)  # of the last stage
        if self.settings.early_stop_epochs:
            raise UserError("train.early_stop_epochs would skip the last stages of bl_just; set it to 0")
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

    @property
    def first(self) -> int:
        """Pre-training epochs, before those on transcribed speech."""
        return self.config.bl_just.pretraining_epochs

    def plan(self, epoch: int) -> Sequence[Step]:
        """All updates of an epoch: pre-training, exploration and joint updates, or fine-tuning."""
        settings, joint = self.bl_just, self.first < epoch <= self.last
        explores = joint and epoch - self.first >= settings.exploration_from_epoch
        share = 1.0 if epoch <= self.first else settings.exploration if explores else 0.0
        scale = settings.exploration_lr_scale if joint else 1.0
        supervised: SupervisedSteps | None = None
        if epoch > self.first:
            supervised = SupervisedSteps(self.plan_updates(epoch), self.supervised_phase(epoch))
        explored = self._plan_unlabelled("exploration", epoch) if share else None
        paired = self._plan_unlabelled("joint", epoch) if supervised and supervised.phase.penalty else None
        number = round(share * len(explored)) if explored else 0
        exploration = Phase(EXPLORATION, all_used=False, lr_scale=scale, level=EXPLORATION)
        return JointSteps(explored, number, supervised, paired, exploration, self.data.train.num_tokens)

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
        """What an epoch on transcribed speech minimises, with penalty weight γ_k before fine-tuning."""
        k = epoch - self.first
        phase = super().supervised_phase(k)
        penalty = gamma(k, self.settings.num_epochs, self.bl_just) if 0 < k <= self.settings.num_epochs else 0.0
        return replace(phase, penalty=penalty, all_used=phase.all_used and penalty > 0)

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """The rate after a fraction of an epoch (from 1): each of the three stages has its own schedule."""
        settings = self.bl_just
        if epoch <= self.first:
            return learning_rate(settings.pretraining_schedule, epoch, fraction, self.first)
        if epoch > self.last:
            rest = self.num_epochs - self.last
            return learning_rate(settings.fine_tuning_schedule, epoch - self.last, fraction, rest)
        return super().learning_rate(epoch - self.first, fraction)

    def batches(self, parts: Sequence[Sequence[Any]], epoch: int) -> Generator[list[Batch] | LoaderError, None, None]:
        """This learner's batches, one list per share."""
        unlabelled = BatchDataset(self.unlabelled, [], self.unlabelled_pipeline)
        # ``from_epoch`` of augmentations counts from the first epoch on labelled speech.
        dataset = PairedDataset(self.dataset([], epoch - self.first), unlabelled, parts)
        return iterate(dataset, self.settings.num_workers)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Utterances, seconds of speech, and hits of each augmentation; unlabelled speech separately."""
        labelled = bool(batch.tokens.numel())
        other = batch.unlabelled if labelled else batch
        counts = super().counts(batch) if labelled and batch.counts else {}
        if other is not None and other.counts:
            counts["unlabelled_s"] = float(sum(cut.duration for cut in other.cuts))
        return counts

    def status(self, sums: Mapping[str, float], seconds: float) -> str:
        """Mean losses and speed."""
        speech_s = (sums.get("speech_s", 0.0) + sums.get("unlabelled_s", 0.0)) * self.learners.world_size
        means = [
            f"{label} {sums[f'loss/{name}'] / sums[f'number/{name}']:.3f}"
            for label, name in (("loss", "loss"), ("g", G))
            if sums.get(f"number/{name}")
        ]
        return f"{', '.join(means)}, {speech_s / seconds / 3600:.3f} h of speech/s"

    def measure(self, epoch: int) -> float | None:
        """WER or CER of greedy search on dev, in percent; None before supervised training."""
        problem = ""
        if self.learners.is_main:
            try:
                self.after = self.diagnose()
            except UserError as error:
                problem = str(error)
        raise_together(self.learners, problem)
        return super().measure(epoch) if epoch > self.first + self.config.loss.ctc_only_epochs else None

    def epoch_values(self, sums: Mapping[str, float]) -> dict[str, Any]:
        """The values of an epoch, and f, g and their gradient norms with respect to θ after it."""
        values = super().epoch_values(sums)
        return values | {"unlabelled_s": round(sums.get("unlabelled_s", 0.0), 2), "bl_just": self.after}

    def diagnose(self) -> dict[str, float]:
        """f, g, ‖∇f‖ and ‖∇g‖ with respect to θ, without augmentation, on the same few utterances in all epochs.

        f is that of a label, as γ weighs it.
        """
        upper = SpeechTask.supervised_phase(self, self.num_epochs - self.first)
        labelled = replace(self.dataset([], 1), epoch=None, views=1, smoothing=None)
        others = BatchDataset(self.unlabelled, [], self.unlabelled_pipeline)
        return {
            **self._measured("f", labelled, self.num_tokens, self.budget, upper),
            **self._measured("g", others, self.unlabelled.num_tokens, self.unlabelled_budget, Phase(EXPLORATION)),
        }

    def _measured(
        self, name: str, dataset: BatchDataset, num_tokens: np.ndarray, budget: BatchBudget, phase: Phase
    ) -> dict[str, float]:
        """The mean loss of a few utterances, per label for f, and its gradient norm."""
        seconds = durations_of(dataset.cuts)
        drawn = np.unique(np.linspace(0, len(seconds) - 1, min(DIAGNOSED, len(seconds))).astype(np.int64))
        plan = plan_epoch(seconds, num_tokens, replace(budget, parts=1, views=1), seed=0, epoch=0, drawn=drawn)
        parameters = [p for p in self.bundle.model.encoder.parameters() if p.requires_grad]
        number, total, gradients = 0, 0.0, [torch.zeros_like(p) for p in parameters]
        training, device = self.module.training, self.learners.device
        self.module.eval()
        with torch.enable_grad():
            for (part,) in plan:
                batch = dataset.load(part)
                batch = replace(batch, seeds=mask_seeds(batch, part, "diagnosis", 0, 0)).to(device)
                number += len(part) if phase.name == EXPLORATION else int(batch.token_lens.sum())
                loss = self.module(batch, phase).total
                total += loss.item()
                new = torch.autograd.grad(loss, parameters, allow_unused=True)
                for gradient, added in zip(gradients, new, strict=True):
                    if added is not None:
                        gradient += added
        self.module.train(training)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        return {name: round(total / number, 5), f"gradient_{name}": round(norm / number, 6)}

    def summary(self, values: Mapping[str, Any]) -> str:
        """An epoch in one line."""
        after = values["bl_just"]
        return (
            f"{super().summary(values)}, f {after['f']:.3f}, g {after['g']:.3f}, "
            f"gradients {after['gradient_f']:.3g} and {after['gradient_g']:.3g}"
        )


def read_unlabelled(config: Config, bundle: ModelBundle[Transducer]) -> tuple[CutIndex, FeaturePipeline]:
    """Speech without transcripts, and its feature pipeline, with the labelled speech's normalization.

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
    """f, with g from the settings.

    Raises:
        UserError: settings that contradict each other.
    """
    speech = (pipeline(cut)[0] for cut in unlabelled)
    return BilevelObjective(supervised, unsupervised_objective(config, encoder, feature_dim(config), speech))


def with_a_loss(unlabelled: CutIndex, pipeline: FeaturePipeline, objective: nn.Module) -> tuple[CutIndex, int]:
    """The utterances that are long enough for the unsupervised loss, and how many are not.

    Raises:
        UserError: there are none.
    """
    least = objective.least_frames if isinstance(objective, CpcObjective) else 1
    frames = np.floor(unlabelled.durations_s / pipeline.frame_shift_s)
    enough = frames > least  # features have one or two frames fewer than fit
    if not enough.any():
        raise UserError(f"no unlabelled utterance has more than {least} frames, which the unsupervised loss needs")
    return (unlabelled, 0) if enough.all() else (unlabelled.select(np.flatnonzero(enough)), int((~enough).sum()))
