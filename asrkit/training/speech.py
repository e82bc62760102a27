"""Supervised training of recognizers: which utterances form an update, and how dev is measured."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from asrkit.bundle.model_file import RECOGNIZER, ModelBundle, ModelFile, save_recognizer, write_model_file
from asrkit.config_losses import frame_epochs
from asrkit.console import log
from asrkit.data.batching import Batch, BatchBudget, EpochPlan, plan_epoch
from asrkit.data.index import CutIndex
from asrkit.data.loaders import BatchDataset, LoaderError, in_batches, iterate
from asrkit.data.transcripts import transcript
from asrkit.decoding.decode import decode_cuts
from asrkit.decoding.nbest import best_text
from asrkit.decoding.search import make_search
from asrkit.distributed.learners import Learners, raise_together
from asrkit.errors import UserError
from asrkit.features.fbank import FRAME_SHIFT_S
from asrkit.lazy import LazySequence
from asrkit.models.transducer import Transducer
from asrkit.scoring.wer import character_error_rate, word_error_rate
from asrkit.training.checkpoint import CheckpointFolder, average_tensors
from asrkit.training.frames import FRAME_ERROR, FRAMES, FrameObjective
from asrkit.training.objective import CTC, TRANSDUCER, Trainable
from asrkit.training.phase import Phase
from asrkit.training.sampling import Occupancy, Sampler, make_sampler
from asrkit.training.schedules import learning_rate, learning_rate_by_updates
from asrkit.training.speech_data import TrainingData
from asrkit.training.task import Step

Value = TypeVar("Value")
MODEL = "averaged.safetensors"
"""The final model."""
NO_LATTICE = 1 << 60
"""Budget of a training in which the joiner is not computed."""
MOST_DROPPED = 0.5
"""A training that would have to exclude a larger share of its utterances is refused."""


@dataclass(frozen=True)
class SupervisedSteps(LazySequence[Step]):
    """The steps of an epoch."""

    plan: EpochPlan
    phase: Phase

    def __len__(self) -> int:
        return len(self.plan)

    def item(self, number: int) -> Step:
        """An update."""
        parts = self.plan[number]
        return Step(parts, sum(map(len, parts)), self.phase)


class SpeechTask:
    """Trains a transducer on transcribed speech; see :class:`asrkit.training.task.Task`.

    Args:
        bundle: the recognizer.
        data: what it is trained and measured on.
        objective: what is minimised.
        learners: those training together.
        exp_dir: where the final model goes.
        sampler: which utterances an epoch sees; all if None.
    """

    def __init__(
        self,
        bundle: ModelBundle[Transducer],
        data: TrainingData,
        objective: nn.Module,
        learners: Learners,
        exp_dir: Path,
        sampler: Sampler | None = None,
    ) -> None:
        self.bundle, self.learners, self.exp_dir = bundle, learners, exp_dir
        self.config, self.settings = bundle.config, bundle.config.train
        self.num_epochs = self.settings.num_epochs
        self.frame_epochs = frame_epochs(self.config.loss, self.num_epochs)
        self.epoch = 0
        """The epoch planned last."""
        self.data = replace(data, train=self._alignable(data))
        self.dev_measure = f"dev_{self.settings.dev_measure}"
        self.module = Trainable(bundle.model, objective)
        self.sampler = sampler or make_sampler(self.settings, self.data.train)
        drawn = self.settings.sampling.type != "all" and self.sampler
        self.occupancy = Occupancy(drawn, len(self.data.train), self.first) if drawn else None
        self.averaged = self.settings.average_epochs
        self.epochs_kept = max(2, self.settings.average_epochs)
        self.views = 2 if self.config.loss.consistency_weight > 0 else 1
        self.num_tokens = self._most_tokens()
        self.budget = self._budget()
        self.budget.require_fit(self.data.train.durations_s, self.num_tokens, self.data.train.__getitem__)

    @property
    def first(self) -> int:
        """Epochs before those on transcribed speech."""
        return 0

    def _alignable(self, data: TrainingData) -> CutIndex:
        """The utterances with at least as many encoder frames as CTC needs for their labels; all without CTC.

        Raises:
            UserError: most have fewer.
        """
        loss, frames_per_label = self.config.loss, data.train_pipeline.frames_per_label
        if not (loss.ctc_weight or loss.ctc_only_epochs):
            return data.train
        frames = np.rint(data.train.durations_s / FRAME_SHIFT_S).astype(np.int64) // frames_per_label
        alignable = data.train.frames_needed <= frames
        if alignable.all():
            return data.train
        dropped, label_s = np.flatnonzero(~alignable), frames_per_label * FRAME_SHIFT_S
        message = (
            f"{len(dropped)} of {len(data.train)} training utterances, such as {data.train[int(dropped[0])].id}, have "
            f"more labels than CTC can place, one every {1000 * label_s:.0f} ms"
        )
        remedy = "a smaller model.encoder.subsampling, or tokenizer.type=bpe, makes room for them"
        if len(dropped) > MOST_DROPPED * len(data.train):
            raise UserError(f"{message}; {remedy}")
        if self.learners.is_main:
            log(f"note: {message}, and are excluded; {remedy}")
        return data.train.select(np.flatnonzero(alignable))

    def _most_tokens(self) -> np.ndarray:
        """(N,) labels of each utterance, or of the longest hypothesis that may replace its transcript."""
        train, smoothing = self.data.train, self.data.smoothing
        if smoothing is None:
            return train.num_tokens
        counts, ids = np.array(train.num_tokens), list(smoothing.hypotheses)
        numbers = train.find(ids)
        longest = np.array([smoothing.longest(id) for id in ids], dtype=counts.dtype)
        counts[numbers[numbers >= 0]] = np.maximum(counts[numbers[numbers >= 0]], longest[numbers >= 0])
        return counts

    def _budget(self) -> BatchBudget:
        settings, perturb = self.settings, self.config.length_perturbation
        return BatchBudget(
            batch_seconds=settings.batch_seconds,
            lattice_budget=NO_LATTICE if self.frame_epochs >= settings.num_epochs else settings.lattice_budget,
            parts=self.learners.world_size * settings.accumulation_steps,
            vocab_size=self.bundle.tokenizer.vocab_size,
            frame_shift_s=self.data.train_pipeline.frame_shift_s * self.bundle.model.encoder.subsampling,
            growth=1 + perturb.insert_rate * perturb.max_insert if perturb.insert_probability > 0 else 1.0,
            prune_range=self.config.loss.prune_range,
            views=self.views,
        )

    def plan(self, epoch: int) -> Sequence[Step]:
        """All updates of an epoch."""
        return SupervisedSteps(self.plan_updates(epoch), self.supervised_phase(epoch))

    def supervised_phase(self, epoch: int) -> Phase:
        """What an epoch on transcribed speech minimises; in the first phases, predictor and joiner get no gradient."""
        frames, ctc = self.frame_epochs, self.config.loss.ctc_only_epochs
        if epoch <= frames:
            return Phase(FRAMES, all_used=False)
        # After them, the head that classifies frames gets no gradient.
        return Phase(CTC, all_used=False) if epoch <= frames + ctc else Phase(TRANSDUCER, all_used=not frames)

    def plan_updates(self, epoch: int) -> EpochPlan:
        """Which utterances form which update of an epoch."""
        self.epoch = epoch
        train, settings = self.data.train, self.settings
        return plan_epoch(
            train.durations_s,
            self.num_tokens,
            self.budget,
            seed=settings.seed,
            epoch=epoch,
            num_buckets=settings.num_buckets,
            drawn=self.sampler(len(train), epoch) if self.sampler else None,
        )

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """The rate after a fraction of an epoch (from 1)."""
        settings = self.settings
        if settings.sampling.type != "all" and settings.sampling.schedule_by == "updates":
            share = settings.sampling.rate
            return learning_rate_by_updates(settings.schedule, epoch, fraction, settings.num_epochs, share)
        return learning_rate(settings.schedule, epoch, fraction, settings.num_epochs)

    def batches(self, parts: Sequence[Sequence[Any]], epoch: int) -> Generator[list[Batch] | LoaderError, None, None]:
        """This learner's batches, one list per share."""
        return iterate(self.dataset(parts, epoch), self.settings.num_workers)

    def dataset(self, parts: Sequence[Sequence[Any]], epoch: int) -> BatchDataset:
        """The batches of labelled utterances."""
        return BatchDataset(
            self.data.train,
            parts,
            self.data.train_pipeline,
            self.bundle.tokenizer,
            self.settings.seed,
            epoch,
            self.data.smoothing,
            self.views,
        )

    def counts(self, batch: Batch) -> dict[str, float]:
        """Utterances, seconds of speech, and hits of each augmentation."""
        hits = {f"augmented/{name}": float(number) for name, number in batch.augmented.items()}
        return {"utterances": batch.num_utterances, "speech_s": sum(cut.duration for cut in batch.cuts), **hits}

    def describe(self, batch: Batch) -> str:
        """The utterances of a batch."""
        return f"utterances {' '.join(batch.utterance_ids)}"

    def measure(self, epoch: int) -> float | None:
        """WER or CER of greedy search on dev, or the share of its frames that are classified wrongly, in percent."""
        due = epoch % self.settings.dev_wer_every_epochs == 0 or epoch == self.num_epochs
        if not due:
            return None
        if self.settings.dev_measure == FRAME_ERROR:
            counts = self._on_dev(self._classified)
            return 100 * sum(wrong for wrong, _ in counts) / sum(frames for _, frames in counts)
        if self.supervised_phase(epoch).name != TRANSDUCER:
            return None
        rate = word_error_rate if self.settings.dev_measure == "wer" else character_error_rate
        return rate(self._on_dev(self._decoded))

    def _on_dev(self, values_of: Callable[[CutIndex], Iterable[Value]]) -> list[Value]:
        """A value of each utterance of dev; the learners share the work."""
        self.module.eval()
        values: list[Value] = []
        while len(values) < len(self.data.dev):  # repeated if a learner was lost with its share
            place, learners = self.learners.place
            own, problem = list[Value](), ""
            try:
                own = list(values_of(self.data.dev[place::learners]))
            except UserError as error:
                problem = str(error)
            raise_together(self.learners, problem)
            values = [value for part in self.learners.gather(own) for value in part]
        return values

    def _classified(self, dev: CutIndex) -> Iterator[tuple[int, int]]:
        """Wrong frames, and frames."""
        objective = self.module.objective
        assert isinstance(objective, FrameObjective)
        seconds = self.config.decode.batch_seconds
        for batch in in_batches(dev, self.data.dev_pipeline, seconds, self.bundle.tokenizer):
            with torch.inference_mode():
                _, *counts = objective.classify(self.bundle.model.encoder, batch.to(self.learners.device), "dev")
            yield from zip(*(count.tolist() for count in counts), strict=True)

    def _decoded(self, dev: CutIndex) -> Iterator[tuple[str, str]]:
        """Transcript and hypothesis."""
        decoded = decode_cuts(
            self.bundle.model,
            self.data.dev_pipeline,
            dev,
            make_search("greedy"),
            batch_seconds=self.config.decode.batch_seconds,
            device=self.learners.device,
        )
        for cut, nbest in decoded:
            yield transcript(cut), best_text(nbest, self.bundle.tokenizer)

    def status(self, sums: Mapping[str, float], seconds: float) -> str:
        """Mean loss and speed."""
        hours_per_second = sums.get("speech_s", 0.0) * self.learners.world_size / seconds / 3600
        loss = sums.get("loss/loss", 0.0) / max(1.0, sums.get("number/loss", 0.0))
        return f"loss {loss:.3f}, {hours_per_second:.3f} h of speech/s"

    def epoch_values(self, sums: Mapping[str, float]) -> dict[str, Any]:
        """Utterances, speech and augmentation hits of an epoch, and how much of the training set was seen so far."""
        seen: dict[str, Any] = {}
        if self.occupancy:
            seen["sampling"] = self.occupancy.after(self.epoch, self.settings.sampling)
        return seen | {
            "speech_s": round(sums.get("speech_s", 0.0), 2),
            "augmented": {name: int(sums.get(f"augmented/{name}", 0)) for name in self.data.augmentation_names},
            "utterances": int(sums.get("utterances", 0)),
        }

    def summary(self, values: Mapping[str, Any]) -> str:
        """An epoch in one line."""
        shares = [f"{name} {hits}/{values['utterances']}" for name, hits in values["augmented"].items()]
        losses = {name: f"{name} {value:.3f}" for name, value in values["loss"].items()}
        total, parts = losses.pop("loss", "no supervised loss"), ", ".join(losses.values())
        value = values[self.dev_measure]
        measured = "-" if value is None else f"{value:.2f} %"
        coverage = values.get("sampling")
        seen = f", seen {coverage['coverage']:.1%} ({coverage['expected_coverage']:.1%} expected)" if coverage else ""
        several = len(losses) > 1 or "loss" not in values["loss"]
        return (
            f"{total}{f' ({parts})' if several else ''}, {self.dev_measure[:3]} {self.dev_measure[4:].upper()} "
            f"{measured}, lr {values['lr']:.2e}, "
            f"{values['speech_s'] / values['seconds']:.0f} s of speech a second, "
            f"waited {100 * values['wait_share']:.1f} %, augmented: {', '.join(shares) or 'nothing'}{seen}"
        )

    def save(self, path: Path) -> None:
        """Writes the recognizer with the parts that only training needs."""
        save_recognizer(path, self.bundle, self.module.objective.state_dict())

    def finish(self, checkpoints: CheckpointFolder, best_epoch: int) -> None:
        """Averages the weights of the last epochs."""
        paths = checkpoints.last_epochs(self.averaged)
        target = self.exp_dir / MODEL
        tensors = average_tensors(paths)
        write_model_file(ModelFile(target, RECOGNIZER, self.config, self.bundle.tokenizer, tensors))
        log(f"averaged the last {len(paths)} epochs into {target}")
