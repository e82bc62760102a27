"""The training loop, written out once. What is trained is a :class:`~asrkit.training.task.Task`."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from asrkit.console import log, progress_bar
from asrkit.data.loaders import LoaderError
from asrkit.devices import autocast, resolve_autocast
from asrkit.distributed.learners import Learners, Pause, raise_together
from asrkit.distributed.work_queue import Claim
from asrkit.errors import UserError
from asrkit.randomness import seeded_generator
from asrkit.training.checkpoint import CheckpointFolder, CheckpointName
from asrkit.training.metrics import MetricsFile
from asrkit.training.objective import Losses, LossPart
from asrkit.training.optimizers import build_optimizer, parameter_groups, set_learning_rate
from asrkit.training.phase import Phase
from asrkit.training.stopping import Stopped, StopSignals
from asrkit.training.task import OwnParts, Step, Task, parts_in_slot


@dataclass
class LoopState:
    """Where training is; what a checkpoint holds in addition to weights and optimizer."""

    epoch: int = 1
    """The epoch to continue in."""
    step: int = 0
    """Updates done in this epoch."""
    updates: int = 0
    best: float = float("inf")
    """Lowest measurement on dev."""
    best_epoch: int = 0
    measurements_since_best: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """This epoch's sums so far, by name; in a checkpoint, over all learners."""


class Loop:
    """Trains a task in an experiment folder; resumes where an earlier run stopped."""

    def __init__(self, task: Task, exp_dir: Path, learners: Learners) -> None:
        self.task, self.exp_dir, self.learners = task, Path(exp_dir), learners
        settings = self.settings = task.settings
        self.module = task.module.to(learners.device)
        optimizer = settings.optimizer
        self.groups = parameter_groups(
            self.module, optimizer.groups, settings.weight_decay, matrices=optimizer.type == "muon"
        )
        self.optimizers = {"": build_optimizer(optimizer, self.groups)}
        """By level of their phases."""
        self.autocast = resolve_autocast(learners.device, settings.autocast)
        if learners.agree(self.autocast == "none"):  # machines of different kinds train together
            self.autocast = "none"
        self.scaler = GradScaler(learners.device.type, enabled=self.autocast == "fp16")
        self.checkpoints = CheckpointFolder(self.exp_dir / "checkpoints", task.epochs_kept, settings.keep_every_epochs)
        self.state = LoopState()
        self.signals = StopSignals()
        self.phase: Phase | None = None
        self.wrapped: nn.Module = self.module
        self.lr = 0.0

    def run(self) -> None:
        """Trains to the last epoch, or to the early stop, and writes the final model.

        Raises:
            UserError: data that cannot be used, or a loss that is not finite.
            Stopped: on Ctrl-C or SIGTERM, with a checkpoint saved.
        """
        self._begin()
        self.metrics = MetricsFile(self.exp_dir) if self.learners.is_main else None
        if self.metrics:
            self.metrics.rewind(self.state.epoch)
        try:
            with self.signals:
                while self.state.epoch <= self.task.num_epochs and not self._early_stop():
                    self._run_epoch()
        finally:
            if self.metrics:
                self.metrics.close()
        if self.learners.is_main:
            self.task.finish(self.checkpoints, self.state.best_epoch)

    def _begin(self) -> None:
        """Resumes, and joins the other learners if they are already training."""
        self._resume()
        epoch = self.learners.begin(self.module)
        if epoch is not None:
            self.state.epoch, self.state.step, self.state.sums = epoch, 0, {}

    def _resume(self) -> None:
        saved = self.checkpoints.load_latest(self.module)
        places = self.learners.gather((saved["loop"]["epoch"], saved["loop"]["step"]) if saved else None)
        if len(set(places)) > 1:
            raise UserError(f"the processes do not read the same checkpoint in {self.checkpoints.folder}: see above")
        if saved is None:
            return
        self._load_optimizers(saved)
        self.state = LoopState(**saved["loop"])
        epoch, step = self.state.epoch, self.state.step
        self.learners.load_state_dict(saved.get("learners", {}), epoch, step)
        name = CheckpointName(epoch, False, step) if step else CheckpointName(epoch - 1, True)
        own = self.learners.load_own(self.checkpoints.folder, name.stem, self.module, self.state.updates)
        if own is not None:
            self._load_optimizers(own)
        if (trained := self.state.epoch - 1) > self.task.num_epochs:
            raise UserError(
                f"{self.checkpoints.folder} has {trained} epochs, more than the {self.task.num_epochs} asked for; raise"
                " train.num_epochs, or choose another --exp-dir"
            )
        if self.learners.is_main:
            log(f"resuming at epoch {self.state.epoch}, update {self.state.step} of it")
        else:
            self.state.sums = {}  # the first process has the sums of all

    def _load_optimizers(self, saved: Mapping[str, Any]) -> None:
        for level, moments in {"": saved["optimizer"], **saved.get("other_optimizers", {})}.items():
            self._optimizer(level).load_state_dict(moments)
        self.scaler.load_state_dict(saved["scaler"])

    def _optimizer(self, level: str) -> torch.optim.Optimizer:
        if level not in self.optimizers:
            self.optimizers[level] = build_optimizer(self.settings.optimizer, self.groups)
        return self.optimizers[level]

    def _run_epoch(self) -> None:
        state, settings, learners = self.state, self.settings, self.learners
        plan = self.task.plan(state.epoch)
        started, before = time.monotonic(), dict(state.sums)
        clock = started
        title = f"epoch {state.epoch}/{self.task.num_epochs}"
        with progress_bar(title, len(plan), state.step, learners.is_main) as bar:
            while True:
                round = learners.round(state.epoch, len(plan), state.step)
                state.step = round.done
                self._save_if_asked(round.pause, len(plan))
                if not round.order:
                    break
                learners.proceed(self.module)
                own = OwnParts(plan, learners, round.order)
                with contextlib.closing(self.task.batches(own, state.epoch)) as loaded:
                    for share in round.order:
                        waited = time.monotonic()
                        batches = self._checked(next(loaded, LoaderError("the loader ended early")))
                        self._add("wait_s", (time.monotonic() - waited) / learners.world_size)
                        claim = learners.claim(share)
                        if claim is Claim.NONE_LEFT:
                            break
                        if claim is Claim.TAKEN:
                            continue
                        self._update(batches, plan, share)
                        now = time.monotonic()
                        self._add("train_s", (now - clock) / learners.world_size)
                        clock = now
                        if learners.is_main:
                            done = {name: value - before.get(name, 0.0) for name, value in state.sums.items()}
                            bar.advance(f"{self.task.status(done, now - started)}, lr {self.lr:.1e}")
                        pause = learners.pause(bool(self.signals.number), state.step, settings.checkpoint_every_steps)
                        if pause is Pause.LEAVE:
                            break
                        self._save_if_asked(pause, len(plan))
        self._finish_epoch(len(plan))

    def _update(self, batches: Sequence[Any], plan: Sequence[Step], share: int) -> None:
        """One optimizer step over this learner's parts of a share of an update."""
        state, learners = self.state, self.learners
        number = share // learners.shares
        step, slot = plan[number], learners.slot(share)
        real = [len(part) > 0 for part in parts_in_slot(step, slot, learners.world_size)]
        self.lr = self.task.learning_rate(state.epoch, number / len(plan)) * step.phase.lr_scale
        optimizer = self._optimizer(step.phase.level)
        set_learning_rate(optimizer, self.groups, self.lr)
        self._enter(step.phase)
        scales = [learners.world_size / step.number if is_real else 0.0 for is_real in real]
        where = "dropout", self.settings.seed, state.epoch, number, slot
        for batch, losses, is_real in zip(batches, self._gradient(batches, scales, where), real, strict=True):
            if is_real:
                self._count(batch, losses)
        self.scaler.unscale_(optimizer)
        learners.watch(self.module, lambda: self._gradient_again(batches, scales, where), self.lr)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.max_grad_norm)
        problem = ""
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            problem = f"the gradient is not finite at {self._where(batches)}; lower the learning rate or check the data"
        raise_together(learners.in_step, problem)
        learners.before_step(self.module)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        learners.after_step(self.module)
        state.step, state.updates = state.step + 1, state.updates + 1
        if self.metrics and state.updates % 10 == 0:
            self.metrics.step({"loss": self._means(state.sums), "lr": self.lr, "grad_norm": norm.item()}, state.updates)

    def _gradient(self, batches: Sequence[Any], scales: Sequence[float], where: Sequence[Any]) -> list[Losses]:
        """Adds the gradient of the scaled losses of an update's batches.

        The learners' gradients are averaged; the update is the mean over all examples of its parts. Dropout depends
        only on ``where`` training is: a resumed run repeats it.
        """
        torch.manual_seed(seeded_generator(*where).initial_seed())
        self.module.train()
        losses = []
        for i, (batch, scale) in enumerate(zip(batches, scales, strict=True)):
            with contextlib.nullcontext() if i == len(batches) - 1 else self.learners.without_sync(self.wrapped):
                batch_losses = self._losses(batch.to(self.learners.device))
                self.scaler.scale(batch_losses.total * scale).backward()
            losses.append(batch_losses)
        return losses

    def _gradient_again(self, batches: Sequence[Any], scales: Sequence[float], where: Sequence[Any]) -> float:
        """Adds the gradient of an update's batches at the current weights, times the scale that it returns.

        The scale is not a number if the loss is not finite there: then nothing is measured.
        """
        try:
            self._gradient(batches, scales, where)
        except UserError:
            return math.nan
        return self.scaler.get_scale()

    def _enter(self, phase: Phase) -> None:
        if self.phase and phase.same_parameters(self.phase):
            self.phase = phase
            return
        self.wrapped = self.module  # frees the previous phase's wrapper, whose hooks must not stay
        gc.collect()
        self.phase, self.wrapped = phase, self.learners.wrap(self.module, phase.all_used)

    def _losses(self, batch: Any) -> Losses:
        """The losses of a batch; computed again without autocast if they are not finite.

        Raises:
            UserError: they are not finite without autocast either, in any process.
        """
        assert self.phase is not None
        with autocast(self.learners.device, self.autocast):
            losses: Losses = self.wrapped(batch, self.phase)
        if not self.learners.in_step.agree(not bool(torch.isfinite(losses.total))):
            return losses
        if self.autocast != "none":
            log(f"the loss is not finite under {self.autocast}; retrying {self._where([batch])} without it")
            losses = self.wrapped(batch, self.phase)
        if self.learners.in_step.agree(not bool(torch.isfinite(losses.total))):
            raise UserError(
                f"the loss is not finite at {self._where([batch])}; check these utterances or lower the learning rate"
            )
        return losses

    def _finish_epoch(self, num_updates: int) -> None:
        state = self.state
        with self.learners.consensus(self.module):
            measured = self.task.measure(state.epoch)
        if measured is not None:
            state.measurements_since_best += 1
            if measured < state.best:
                state.best, state.best_epoch, state.measurements_since_best = measured, state.epoch, 0
        sums, diagnostics = self.learners.total(state.sums), self.learners.diagnostics(self.module)
        if self.metrics:
            values = {
                "epoch": state.epoch,
                "updates": num_updates,
                "lr": self.task.learning_rate(state.epoch, 0.0),
                "loss": self._means(sums),
                self.task.dev_measure: measured,
                "seconds": round(sums["train_s"], 3),
                "wait_share": round(sums["wait_s"] / sums["train_s"], 4),
            } | self.task.epoch_values(sums)
            values |= {"learners": diagnostics} if diagnostics else {}
            self.metrics.epoch(values)
            log(f"epoch {state.epoch}: {self.task.summary(values)}")
        finished = CheckpointName(state.epoch, True)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
        self._save(finished)
        # Learners that joined later have an earlier checkpoint's best: all take that of the first.
        best = state.best, state.best_epoch, state.measurements_since_best
        reports = self.learners.gather((bool(self.signals.number), best))
        state.best, state.best_epoch, state.measurements_since_best = reports[0][1]
        if any(signalled for signalled, _ in reports):
            self._stop()

    def _checked(self, loaded: list[Any] | LoaderError) -> list[Any]:
        """The batches; raises the loader error of any learner in all of them."""
        raise_together(self.learners.in_step, loaded.message if isinstance(loaded, LoaderError) else "")
        assert not isinstance(loaded, LoaderError)
        return loaded

    def _save(self, name: CheckpointName) -> None:
        moments = {level: optimizer.state_dict() for level, optimizer in self.optimizers.items()}
        own = {"optimizer": moments.pop(""), "other_optimizers": moments, "scaler": self.scaler.state_dict()}
        state = own | {
            "loop": vars(self.state) | {"sums": self.learners.total(self.state.sums)},
            "learners": self.learners.state_dict(),
        }
        # Each learner's own state first: a checkpoint that exists is complete.
        self.learners.save_own(self.checkpoints.folder, name.stem, self.module, own)
        with self.learners.consensus(self.module):
            if self.learners.is_main:
                self.checkpoints.save(name, self.task.save, state, self.state.best_epoch)

    def _early_stop(self) -> bool:
        patience = self.settings.early_stop_epochs
        return bool(patience) and self.state.measurements_since_best >= patience

    def _save_if_asked(self, pause: Pause, num_steps: int) -> None:
        """Saves and stops, as ``pause`` says, within an epoch of ``num_steps`` steps."""
        if pause is Pause.STOP or (pause is Pause.SAVE and self.state.step < num_steps):
            self._save(CheckpointName(self.state.epoch, False, self.state.step))
        if pause is Pause.STOP:
            self._stop()

    def _stop(self) -> NoReturn:
        self.learners.agree(False)  # wait until the first has written the checkpoint
        raise Stopped(self.signals.number or signal.SIGTERM)

    def _count(self, batch: Any, losses: Losses) -> None:
        for name, part in {losses.name: LossPart(losses.total, losses.number), **losses.parts}.items():
            self._add(f"loss/{name}", part.total.item())
            self._add(f"number/{name}", part.number)
        for name, value in self.task.counts(batch).items():
            self._add(name, value)

    def _add(self, name: str, value: float) -> None:
        self.state.sums[name] = self.state.sums.get(name, 0.0) + value

    @staticmethod
    def _means(sums: dict[str, float]) -> dict[str, float]:
        """Each part of the loss, per utterance, frame or symbol."""
        names = [name.removeprefix("loss/") for name in sums if name.startswith("loss/")]
        return {name: sums[f"loss/{name}"] / sums[f"number/{name}"] for name in names if sums[f"number/{name}"]}

    def _where(self, batches: Sequence[Any]) -> str:
        described = " ".join(self.task.describe(batch) for batch in batches)
        return f"epoch {self.state.epoch}, update {self.state.step} ({described})"
