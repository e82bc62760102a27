"""Supervised training of recognizers: which utterances make an update, and how dev is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lhotse.cut import Cut
from torch import nn

from asrkit.bundle.build import build_transducer
from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import RECOGNIZER, ModelBundle, ModelFile, save_recognizer, write_model_file
from asrkit.config import Config
from asrkit.console import log
from asrkit.data.batching import Batch, BatchBudget, plan_epoch
from asrkit.data.folder import DataFolder
from asrkit.data.loaders import BatchDataset, LoaderError, encode_transcript, frames_needed, iterate, transcript
from asrkit.data.nbest_label_smoothing import SMOOTHING, NbestLabelSmoothing, read_hypotheses
from asrkit.data.upstream import data_inputs
from asrkit.decoding.decode import decode_cuts
from asrkit.decoding.search import make_search
from asrkit.distributed.learners import Learners, join_learners, only_process_in
from asrkit.errors import UserError
from asrkit.features.augmentation import Augmentation
from asrkit.features.fbank import FRAME_SHIFT_S
from asrkit.features.length_perturbation import LengthPerturbation
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.sequence_noise import SequenceNoise
from asrkit.features.spec_augment import SpecAugment
from asrkit.models.transducer import Transducer, num_parameters
from asrkit.scoring.wer import character_error_rate, word_error_rate
from asrkit.text.tokenizer import Tokenizer
from asrkit.training.checkpoint import CheckpointFolder, average_tensors
from asrkit.training.initial import load_initial
from asrkit.training.inputs import start_training
from asrkit.training.loop import Loop
from asrkit.training.objective import CTC, TRANSDUCER, Trainable, TransducerObjective
from asrkit.training.task import Phase, Step

MODEL = "averaged.safetensors"
"""What a training leaves."""
MOST_DROPPED = 0.5
"""A training that would have to exclude a larger share of its utterances is refused."""
Sampler = Callable[[Sequence[Cut], int], Sequence[Cut]]
"""The utterances of an epoch, from all of them and the epoch's number."""


@dataclass(frozen=True)
class TrainingData:
    """What a training reads."""

    train: Sequence[Cut]
    dev: Sequence[Cut]
    train_pipeline: FeaturePipeline
    dev_pipeline: FeaturePipeline
    smoothing: NbestLabelSmoothing | None = None

    @property
    def augmentation_names(self) -> tuple[str, ...]:
        """Everything that changes utterances, whose hits are counted."""
        return (*self.train_pipeline.augmentation_names, *([SMOOTHING] if self.smoothing else []))


class SpeechTask:
    """Trains a transducer on transcribed speech; see :class:`asrkit.training.task.Task`.

    Args:
        bundle: the recognizer.
        data: what it is trained and measured on.
        objective: what is minimised.
        learners: who train together.
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
        labels = {cut.id: encode_transcript(bundle.tokenizer, cut) for cut in data.train}
        self.data = replace(data, train=self._alignable(data, labels))
        self.dev_measure = f"dev_{self.settings.dev_measure}"
        self.module = Trainable(bundle.model, objective)
        self.sampler = sampler
        self.epochs_kept = max(2, self.settings.average_epochs)
        self.views = 2 if self.config.loss.consistency_weight > 0 else 1
        self.num_tokens = {cut.id: self._most_tokens(cut.id, labels[cut.id]) for cut in self.data.train}

    def _alignable(self, data: TrainingData, labels: Mapping[str, Sequence[int]]) -> Sequence[Cut]:
        """The utterances with at least as many encoder frames as CTC needs for their labels; all without CTC.

        Raises:
            UserError: most have fewer.
        """
        loss, frames_per_label = self.config.loss, data.train_pipeline.frames_per_label
        if not (loss.ctc_weight or loss.ctc_only_epochs):
            return data.train
        kept: list[Cut] = []
        dropped: list[Cut] = []
        for cut in data.train:
            frames = round(cut.duration / FRAME_SHIFT_S) // frames_per_label
            (kept if frames_needed(labels[cut.id]) <= frames else dropped).append(cut)
        if dropped:
            label_s = frames_per_label * FRAME_SHIFT_S
            said = (
                f"{len(dropped)} of {len(data.train)} training utterances, such as {dropped[0].id}, have more labels "
                f"than CTC can place, one every {1000 * label_s:.0f} ms"
            )
            remedy = "a smaller model.encoder.subsampling, or tokenizer.type=bpe, makes room for them"
            if len(dropped) > MOST_DROPPED * len(data.train):
                raise UserError(f"{said}; {remedy}")
            if self.learners.is_main:
                log(f"note: {said}, and are excluded; {remedy}")
        return kept

    def _most_tokens(self, id: str, labels: Sequence[int]) -> int:
        longest = self.data.smoothing.longest(id) if self.data.smoothing else 0
        return max(len(labels), longest)

    def plan(self, epoch: int) -> list[Step]:
        """All updates of an epoch."""
        settings, perturb = self.settings, self.config.length_perturbation
        cuts = self.sampler(self.data.train, epoch) if self.sampler else self.data.train
        budget = BatchBudget(
            batch_seconds=settings.batch_seconds,
            lattice_budget=settings.lattice_budget,
            parts=self.learners.world_size * settings.accumulation_steps,
            vocab_size=self.bundle.tokenizer.vocab_size,
            frame_shift_s=self.data.train_pipeline.frame_shift_s * self.bundle.model.encoder.subsampling,
            growth=1 + perturb.insert_rate * perturb.max_insert if perturb.insert_probability > 0 else 1.0,
            prune_range=self.config.loss.prune_range,
            views=self.views,
        )
        updates = plan_epoch(
            cuts, self.num_tokens, budget, seed=settings.seed, epoch=epoch, num_buckets=settings.num_buckets
        )
        # In the first phase predictor and joiner get no gradient.
        phase = Phase(CTC, all_used=False) if epoch <= self.config.loss.ctc_only_epochs else Phase(TRANSDUCER)
        return [Step(update, sum(map(len, update)), phase) for update in updates]

    def batches(self, parts: Sequence[Sequence[Any]], epoch: int, first: int) -> Iterator[list[Batch] | LoaderError]:
        """Batches of this learner's parts of each step, from step ``first`` on."""
        pipeline, smoothing = self.data.train_pipeline, self.data.smoothing
        dataset = BatchDataset(parts, pipeline, self.bundle.tokenizer, self.settings.seed, epoch, smoothing, self.views)
        return iterate(dataset, self.settings.num_workers, first)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Utterances, seconds of speech, and hits of each augmentation."""
        hits = {f"augmented/{name}": float(number) for name, number in batch.augmented.items()}
        return {"utterances": batch.num_utterances, "speech_s": sum(cut.duration for cut in batch.cuts), **hits}

    def describe(self, batch: Batch) -> str:
        """The utterances of a batch."""
        return f"utterances {' '.join(batch.utterance_ids)}"

    def measure(self, epoch: int) -> float | None:
        """WER, or CER, of greedy search on dev, in percent."""
        due = epoch % self.settings.dev_wer_every_epochs == 0 or epoch == self.settings.num_epochs
        if not due or epoch <= self.config.loss.ctc_only_epochs:
            return None
        self.bundle.model.eval()
        decoded = decode_cuts(
            self.bundle.model,
            self.data.dev_pipeline,
            self.data.dev[self.learners.rank :: self.learners.world_size],
            make_search("greedy"),
            batch_seconds=self.config.decode.batch_seconds,
            device=self.learners.device,
        )
        pairs, refused = [], ""
        try:
            pairs = [(transcript(cut), self.bundle.tokenizer.decode(nbest[0].tokens)) for cut, nbest in decoded]
        except UserError as error:
            refused = str(error)
        if reasons := [reason for reason in self.learners.gather(refused) if reason]:
            raise UserError(reasons[0])  # in all processes, so that none waits for the others
        rate = word_error_rate if self.settings.dev_measure == "wer" else character_error_rate
        return rate([pair for part in self.learners.gather(pairs) for pair in part])

    def status(self, sums: Mapping[str, float], seconds: float) -> str:
        """Mean loss and speed."""
        hours_a_second = sums.get("speech_s", 0.0) * self.learners.world_size / seconds / 3600
        loss = sums.get("loss/loss", 0.0) / max(1.0, sums.get("number/loss", 0.0))
        return f"loss {loss:.3f}, {hours_a_second:.3f} h of speech/s"

    def epoch_values(self, sums: Mapping[str, float]) -> dict[str, Any]:
        """Utterances, speech and hits of an epoch."""
        return {
            "speech_s": round(sums["speech_s"], 2),
            "augmented": {name: int(sums.get(f"augmented/{name}", 0)) for name in self.data.augmentation_names},
            "utterances": int(sums["utterances"]),
        }

    def summary(self, values: Mapping[str, Any]) -> str:
        """An epoch in one line."""
        shares = [f"{name} {hits}/{values['utterances']}" for name, hits in values["augmented"].items()]
        losses = {name: f"{name} {value:.3f}" for name, value in values["loss"].items()}
        total, parts = losses.pop("loss"), ", ".join(losses.values())
        value = values[self.dev_measure]
        measured = "-" if value is None else f"{value:.2f} %"
        return (
            f"{total}{f' ({parts})' if len(losses) > 1 else ''}, {self.dev_measure[:3]} {self.dev_measure[4:].upper()} "
            f"{measured}, lr {values['lr']:.2e}, "
            f"{values['speech_s'] / values['seconds']:.0f} s of speech a second, "
            f"waited {100 * values['wait_share']:.1f} %, augmented: {', '.join(shares) or 'nothing'}"
        )

    def save(self, path: Path) -> None:
        """Writes the recognizer with the parts that only training needs."""
        save_recognizer(path, self.bundle, self.module.objective.state_dict())

    def finish(self, checkpoints: CheckpointFolder, best_epoch: int) -> None:
        """Averages the weights of the last epochs."""
        paths = checkpoints.last_epochs(self.settings.average_epochs)
        target = self.exp_dir / MODEL
        tensors = average_tensors(paths)
        write_model_file(ModelFile(target, RECOGNIZER, self.config, self.bundle.tokenizer, tensors))
        log(f"averaged the last {len(paths)} epochs into {target}")


def run_training(
    config: Config,
    data_dir: Path,
    exp_dir: Path,
    *,
    objective: Callable[[nn.Module], nn.Module] | None = None,
    sampler: Sampler | None = None,
    note: str = "",
) -> None:
    """Trains a recognizer, or resumes its training, in ``exp_dir``; under ``torchrun``, with all its processes.

    Args:
        config: the experiment.
        data_dir: prepared data.
        exp_dir: where the experiment goes.
        objective: makes what is minimised from the objective of the settings.
        sampler: which utterances an epoch sees; all if None.
        note: what the user should know before the first epoch.

    Raises:
        UserError: missing or bad data, or an experiment folder of another configuration.
        asrkit.training.stopping.Stopped: on Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    folder = DataFolder(data_dir)
    with only_process_in(exp_dir), join_learners(config.train.device) as learners:
        if learners.is_main:
            start_training(config, exp_dir, MODEL, data_inputs(folder))
        tokenizer = _tokenizer(config, folder)
        torch.manual_seed(config.train.seed)
        model = build_transducer(config, tokenizer.vocab_size)
        minimised: nn.Module = TransducerObjective(config.loss, model)
        load_initial(config.train, Trainable(model, minimised), tokenizer, exp_dir)
        bundle = ModelBundle(model, config, tokenizer, folder.load_statistics())
        data = _read_data(config, folder, bundle)
        task = SpeechTask(bundle, data, objective(minimised) if objective else minimised, learners, exp_dir, sampler)
        loop = Loop(task, exp_dir, learners)
        if learners.is_main:
            hours = sum(cut.duration for cut in data.train) / 3600
            log(
                f"{num_parameters(model):,} parameters ({num_parameters(minimised):,} more in training), "
                f"{tokenizer.vocab_size} symbols, {len(data.train)} utterances ({hours:.2f} h), "
                f"{learners.world_size} process(es) on {learners.device.type}, autocast {loop.autocast}, "
                f"augmentations: {', '.join(data.augmentation_names)} {config.features.speed_factors}"
            )
            if note:
                log(f"note: {note}")
        loop.run()


def _tokenizer(config: Config, folder: DataFolder) -> Tokenizer:
    tokenizer = folder.load_tokenizer()
    kind = tokenizer.to_dict()["type"]
    if kind != config.tokenizer.type:
        raise UserError(
            f"tokenizer.type is {config.tokenizer.type} but {folder.tokenizer} is of type {kind}; "
            "run asrkit tokenizer --force or choose another --data-dir"
        )
    return tokenizer


def _read_data(config: Config, folder: DataFolder, bundle: ModelBundle[Transducer]) -> TrainingData:
    train, pipeline = list(folder.read_features("train")), build_pipeline(config, bundle.statistics)
    kind = config.features.normalization
    if kind in ("speaker", "side") and not any(name.startswith(f"{kind}:") for name in bundle.statistics):
        raise UserError(f"there are no statistics for features.normalization={kind}; run asrkit features --force")
    return TrainingData(
        train=train,
        dev=list(folder.read_features("dev")),
        train_pipeline=replace(pipeline, augmentations=_augmentations(config, pipeline, train)),
        dev_pipeline=pipeline,
        smoothing=_smoothing(config, bundle.tokenizer, train),
    )


def _augmentations(config: Config, pipeline: FeaturePipeline, train: Sequence[Cut]) -> dict[str, Augmentation]:
    """Those with a probability above 0, in the order of Cui et al. 2022 (arXiv 2203.15176, fig. 1)."""
    perturb, noise, masks = config.length_perturbation, config.sequence_noise, config.spec_augment
    active: dict[str, Augmentation] = {}
    if perturb.drop_probability > 0 or perturb.insert_probability > 0:
        active["length_perturbation"] = LengthPerturbation(**asdict(perturb))
    if noise.probability > 0:
        active["sequence_noise"] = SequenceNoise(train, pipeline.normalized, noise.probability, noise.scale)
    if masks.probability > 0:
        active["spec_augment"] = SpecAugment(**asdict(masks))
    return active


def _smoothing(config: Config, tokenizer: Tokenizer, train: Sequence[Cut]) -> NbestLabelSmoothing | None:
    """The n-best label smoothing of an experiment, None where its probability is 0.

    Raises:
        UserError: the hypotheses cannot be read, or are of another training set.
    """
    smoothing = config.nbest_label_smoothing
    if smoothing.probability <= 0:
        return None
    hypotheses = read_hypotheses(Path(smoothing.hypotheses), tokenizer)
    missing = [cut.id for cut in train if cut.id not in hypotheses]
    if missing:
        raise UserError(
            f"{smoothing.hypotheses} has no n-best list of {missing[0]} ({len(missing)} of {len(train)} utterances); "
            "run asrkit nbest on this training set"
        )
    return NbestLabelSmoothing(**(asdict(smoothing) | {"hypotheses": hypotheses}))
