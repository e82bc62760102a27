"""From a configuration and prepared data to a trained recognizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle
from asrkit.config import Config, FeatureConfig
from asrkit.config_losses import frame_epochs
from asrkit.console import log
from asrkit.data.folder import DataFolder
from asrkit.data.index import digest_of_cuts
from asrkit.data.upstream import data_inputs
from asrkit.distributed.join import join_learners
from asrkit.distributed.learners import only_process_in
from asrkit.errors import UserError
from asrkit.features.pipeline import SPEED, TEMPO
from asrkit.models.transducer import num_parameters
from asrkit.records import digest
from asrkit.training.bl_just import BilevelObjective, BilevelTask, bilevel_objective, read_unlabelled, with_a_loss
from asrkit.training.frames import FRAME_ERROR, aligned_splits, frame_objective
from asrkit.training.initial import load_initial
from asrkit.training.inputs import start_training
from asrkit.training.loop import Loop
from asrkit.training.objective import Trainable, TransducerObjective
from asrkit.training.sampling import Sampler
from asrkit.training.speech import MODEL, SpeechTask
from asrkit.training.speech_data import TrainingData, read_data, read_tokenizer
from asrkit.training.unsupervised import BestRqObjective

UNPREDICTABLE = 0.95
"""Entropy of a label given the one before, relative to its entropy, above which there is little to learn."""


def training_inputs(config: Config, folder: DataFolder) -> dict[str, Any]:
    """What a recognizer's training depends on besides its settings."""
    inputs = data_inputs(folder)
    for name, other in other_folders(config).items():
        inputs |= {f"digest of {name}": digest_of_cuts(other, "train")}
        inputs |= {f"digest of statistics of {name}": digest(other.statistics)}
    if path := config.train.sampling.scores:
        inputs["digest of train.sampling.scores"] = digest(Path(path))
    if path := config.bl_just.best_rq.align_from:
        inputs["digest of bl_just.best_rq.align_from"] = digest(Path(path))
    for split in aligned_splits(config):
        inputs[f"digest of alignments of {split}"] = digest(folder.alignments(split))
    return inputs


def other_folders(config: Config) -> dict[str, DataFolder]:
    """Prepared data that training reads besides ``--data-dir``, by the setting that names it."""
    folders = {f"train.mix.{name}": DataFolder(Path(other.data_dir)) for name, other in config.train.mix.items()}
    if config.bl_just.loss != "none" and config.bl_just.unlabelled_dir:
        folders["bl_just.unlabelled_dir"] = DataFolder(Path(config.bl_just.unlabelled_dir))
    return folders


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
        exp_dir: the experiment folder.
        objective: maps the objective of the settings to the one minimised.
        sampler: which utterances an epoch sees; all if None.
        note: what the user should know before the first epoch.

    Raises:
        UserError: missing or bad data, or an experiment folder of another configuration.
        asrkit.training.stopping.Stopped: on Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    num_epochs = config.train.num_epochs
    if config.train.dev_measure == FRAME_ERROR and frame_epochs(config.loss, num_epochs) < num_epochs:
        raise UserError("train.dev_measure=frame_error needs loss.frame_epochs=-1, for all epochs")
    folder = DataFolder(data_dir)
    with only_process_in(exp_dir), join_learners(config.train) as learners:
        if learners.is_main:
            start_training(config, exp_dir, MODEL, training_inputs(config, folder))
        tokenizer = read_tokenizer(config, folder)
        torch.manual_seed(config.train.seed)
        model = build_transducer(config, tokenizer.vocab_size)
        bundle = ModelBundle(model, config, tokenizer, folder.load_statistics())
        data = read_data(config, folder, bundle)
        minimised: nn.Module = TransducerObjective(config.loss, model)
        if config.loss.frame_epochs:
            minimised = frame_objective(config, minimised, model, folder, data.train_pipeline.frame_shift_s)
        if config.bl_just.loss != "none":
            unlabelled, pipeline = read_unlabelled(config, bundle)
            minimised = bilevel_objective(config, minimised, model.encoder, unlabelled, pipeline)
            unlabelled, too_short = with_a_loss(unlabelled, pipeline, minimised.unsupervised)
            if too_short and learners.is_main:
                log(f"note: {too_short} unlabelled utterances are too short for the unsupervised loss and are excluded")
        load_initial(config.train, Trainable(model, minimised), tokenizer, exp_dir)
        task: SpeechTask
        if isinstance(minimised, BilevelObjective):
            task = BilevelTask(bundle, data, minimised, learners, exp_dir, unlabelled, pipeline)
        else:
            changed = objective(minimised) if objective else minimised
            task = SpeechTask(bundle, data, changed, learners, exp_dir, sampler)
        loop = Loop(task, exp_dir, learners)
        if learners.is_main:
            hours = data.train.durations_s.sum() / 3600
            method = "" if config.train.parallel == "ddp" else f" by {config.train.parallel}"
            log(
                f"{num_parameters(model):,} parameters ({num_parameters(minimised):,} more in training), "
                f"{tokenizer.vocab_size} symbols, {len(data.train)} utterances ({hours:.2f} h), "
                f"{learners.world_size} process(es) on {learners.device.type}{method}, autocast {loop.autocast}, "
                f"augmentations: {', '.join(_augmentations(data, config.features))}"
            )
            if isinstance(task, BilevelTask):
                hours = task.unlabelled.durations_s.sum() / 3600
                log(f"unlabelled: {len(task.unlabelled)} utterances ({hours:.2f} h), loss {config.bl_just.loss}")
                _log_labels(task)
            if note:
                log(f"note: {note}")
        loop.run()


def _log_labels(task: BilevelTask) -> None:
    """How well BEST-RQ's labels could be predicted."""
    g = task.objective.unsupervised
    if not isinstance(g, BestRqObjective):
        return
    found = g.entropies(task.unlabelled_pipeline(cut)[0] for cut in task.unlabelled)
    if found is None:
        return
    alone, given = found
    figures = f"{given:.2f} nats given the label before, {alone:.2f} by frequency"
    log(f"BEST-RQ's labels: {figures}, {math.log(g.config.codebook_size):.2f} if uniform")
    if given > UNPREDICTABLE * alone:
        log("note: they can hardly be predicted from their neighbours; lower bl_just.best_rq.codebook_dim")


def _augmentations(data: TrainingData, features: FeatureConfig) -> list[str]:
    """Those of this configuration; speed and tempo need replicas of the training set."""
    replicas = {SPEED: any(factor != 1 for factor in features.speed_factors), TEMPO: bool(features.tempo_factors)}
    return [name for name in data.augmentation_names if replicas.get(name, True)] or ["none"]
