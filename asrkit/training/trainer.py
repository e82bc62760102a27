"""The training loop, written out once.

Methods hook in at four places (:class:`Hooks`): which utterances an epoch sees, what is minimised, what
happens after an optimizer step, and how modules are rewritten before training.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lhotse.cut import Cut
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from asrkit.config import Config
from asrkit.data.batching import Batch, BatchBudget, Update, plan_epoch
from asrkit.data.loaders import BatchDataset, LoaderError, encode_transcript, iterate, transcript
from asrkit.data.nbest_label_smoothing import SMOOTHING, NbestLabelSmoothing
from asrkit.decoding.decode import decode_cuts
from asrkit.decoding.search import make_search
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.scoring.wer import word_error_rate
from asrkit.training.checkpoint import CheckpointFolder, CheckpointName, ModelBundle, average_weights, save_model
from asrkit.training.objective import Losses, Objective, ObjectiveModule, transducer_objective
from asrkit.training.parallel import Process
from asrkit.training.progress import MetricsFile, log, progress_bar
from asrkit.training.schedules import learning_rate
from asrkit.training.steps import autocast, begin_step, resolve_autocast
from asrkit.training.stopping import Stopped, StopSignals


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


@dataclass(frozen=True)
class Hooks:
    """The places where a method changes the loop."""

    select: Callable[[Sequence[Cut], int], Sequence[Cut]] | None = None
    """The utterances of an epoch, from all of them and the epoch's number."""
    objective: Objective | None = None
    after_step: Callable[[nn.Module, int], None] | None = None
    """Called with the model and the update's number after every optimizer step."""
    rewrite: Callable[[nn.Module], None] | None = None
    """Replaces modules in place before the optimizer sees their parameters."""


@dataclass
class LoopState:
    """Where training is; what a checkpoint holds beside weights and optimizer."""

    epoch: int = 1
    """The epoch to go on in."""
    step: int = 0
    """Updates done in it."""
    updates: int = 0
    best_wer: float = float("inf")
    best_epoch: int = 0
    measurements_since_best: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """This epoch's sums so far: losses, utterances, seconds of speech and of time; in a checkpoint of all processes."""
    augmented: dict[str, int] = field(default_factory=dict)


class Trainer:
    """Trains one model from its configuration, data and folder; goes on where an earlier run stopped."""

    def __init__(
        self, bundle: ModelBundle, data: TrainingData, exp_dir: Path, process: Process, hooks: Hooks | None = None
    ) -> None:
        self.bundle, self.data, self.exp_dir, self.process = bundle, data, Path(exp_dir), process
        self.config: Config = bundle.config
        self.hooks = hooks or Hooks()
        self.model = bundle.model.to(process.device)
        if self.hooks.rewrite:
            self.hooks.rewrite(self.model)
        self.objective = self.hooks.objective or transducer_objective(self.config.loss)
        train = self.config.train
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, train.weight_decay), fused=True)
        self.autocast = resolve_autocast(process.device, train.autocast)
        if process.any(self.autocast == "none"):  # machines of different kinds train together
            self.autocast = "none"
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.autocast == "fp16")
        self.checkpoints = CheckpointFolder(
            self.exp_dir / "checkpoints", max(2, train.average_epochs), train.keep_every_epochs
        )
        self.state = LoopState()
        self.num_tokens = {
            cut.id: max(
                len(encode_transcript(bundle.tokenizer, cut)), data.smoothing.longest(cut.id) if data.smoothing else 0
            )
            for cut in data.train
        }
        self.signals = StopSignals()

    def run(self) -> None:
        """Trains to the last epoch, or to the early stop, and writes ``averaged.safetensors``.

        Raises:
            UserError: data that cannot be used, or a loss that is not finite.
            Stopped: on Ctrl-C or SIGTERM, with a checkpoint saved.
        """
        self._resume()
        self.ddp: nn.Module = self._wrapped()
        self.metrics = MetricsFile(self.exp_dir) if self.process.is_main else None
        if self.metrics:
            self.metrics.rewind(self.state.epoch)
        try:
            with self.signals:
                while self.state.epoch <= self.config.train.num_epochs and not self._early_stop():
                    self._run_epoch()
        finally:
            if self.metrics:
                self.metrics.close()
        if self.process.is_main:
            self._average()

    def _resume(self) -> None:
        saved = self.checkpoints.load_latest(self.model)
        found = self.process.gather((saved["loop"]["epoch"], saved["loop"]["step"]) if saved else None)
        if len(set(found)) > 1:
            raise UserError(f"the processes do not read the same checkpoint in {self.checkpoints.folder}: see above")
        if saved is None:
            return
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.state = LoopState(**saved["loop"])
        if self.process.is_main:
            log(f"going on at epoch {self.state.epoch}, update {self.state.step} of it")
        else:
            self.state.sums, self.state.augmented = {}, {}  # the first process has those of all

    def _wrapped(self) -> nn.Module:
        """The model with its objective, as DDP where there are several processes."""
        module = ObjectiveModule(self.model, self.objective)
        if self.process.world_size == 1:
            return module
        # The predictor and the joiner have no gradient as long as CTC is alone.
        ctc_only = self.state.epoch <= self.config.loss.ctc_only_epochs
        return DistributedDataParallel(module, find_unused_parameters=ctc_only)

    def _run_epoch(self) -> None:
        state, train = self.state, self.config.train
        if 0 < self.config.loss.ctc_only_epochs == state.epoch - 1 and state.step == 0:
            del self.ddp  # lets go of the wrapper of the CTC epochs, whose hooks must not stay
            gc.collect()
            self.ddp = self._wrapped()
        plan = self._plan(state.epoch)
        local = [self._local_parts(update) for update in plan]
        dataset = BatchDataset(
            [[part or update[0][:1] for part in parts] for parts, update in zip(local, plan, strict=True)],
            self.data.train_pipeline, self.bundle.tokenizer, train.seed, state.epoch, self.data.smoothing,
        )  # fmt: skip
        started, speech_before_s = time.monotonic(), state.sums.get("speech_s", 0.0)
        clock, world_size = started, self.process.world_size
        batches = iterate(dataset, train.num_workers, state.step)
        with progress_bar(
            f"epoch {state.epoch}/{train.num_epochs}", len(plan), state.step, self.process.is_main
        ) as bar:
            for step in range(state.step, len(plan)):
                waited = time.monotonic()
                loaded = self._checked(next(batches, LoaderError("the loader ended early")))
                self._add("wait_s", (time.monotonic() - waited) / world_size)
                lr = self._learning_rate(state.epoch, step / len(plan))
                self._update(loaded, [bool(part) for part in local[step]], plan[step], lr)
                state.step, state.updates = step + 1, state.updates + 1
                if self.hooks.after_step:
                    self.hooks.after_step(self.model, state.updates)
                now = time.monotonic()
                self._add("train_s", (now - clock) / world_size)
                clock = now
                bar.advance(self._status(lr, started, speech_before_s))
                self._stop_if_asked()
                if state.step % train.checkpoint_every_steps == 0 and state.step < len(plan):
                    self._save(CheckpointName(state.epoch, False, state.step))
        self._finish_epoch(len(plan))

    def _update(self, batches: list[Batch], real: list[bool], update: Update, lr: float) -> None:
        """One optimizer step over this process's parts of an update."""
        state = self.state
        begin_step(self.optimizer, lr, self.config.train.seed, state.epoch, state.step, self.process.rank)
        utterances = sum(map(len, update))
        self.model.train()
        for i, (batch, is_real) in enumerate(zip(batches, real, strict=True)):
            last = i == len(batches) - 1
            sync = contextlib.nullcontext() if last or self.process.world_size == 1 else self.ddp.no_sync()  # type: ignore[operator]
            with sync:
                losses = self._losses(batch.to(self.process.device))
                # DDP takes the mean over processes; the update is the mean over all its utterances.
                scale = self.process.world_size / utterances if is_real else 0.0
                self.scaler.scale(losses.total * scale).backward()
            if is_real:
                self._count(batch, losses)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.max_grad_norm)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise UserError(
                f"the gradient is not finite at {self._where(batches)}; lower the learning rate or check the data"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.metrics and state.updates % 10 == 0:
            loss = self.state.sums["loss"] / self.state.sums["utterances"]
            self.metrics.step({"loss": loss, "lr": lr, "grad_norm": norm.item()}, state.updates)

    def _losses(self, batch: Batch) -> Losses:
        """The losses of a batch, once more without autocast where they are not finite.

        Raises:
            UserError: not finite without autocast either, in any process.
        """
        with autocast(self.process.device, self.autocast):
            losses = self.ddp(batch, self.state.epoch)
        if not self.process.any(not bool(torch.isfinite(losses.total))):
            return losses
        if self.autocast != "none":
            log(f"the loss is not finite under {self.autocast}; trying {self._where([batch])} without")
            losses = self.ddp(batch, self.state.epoch)
        if self.process.any(not bool(torch.isfinite(losses.total))):
            raise UserError(
                f"the loss is not finite at {self._where([batch])}; check these utterances or lower the learning rate"
            )
        return losses

    def _finish_epoch(self, num_updates: int) -> None:
        state, train = self.state, self.config.train
        wer = None
        measured = state.epoch % train.dev_wer_every_epochs == 0 or state.epoch == train.num_epochs
        if measured and state.epoch > self.config.loss.ctc_only_epochs:
            wer = self._dev_wer()
            state.measurements_since_best += 1
            if wer < state.best_wer:
                state.best_wer, state.best_epoch, state.measurements_since_best = wer, state.epoch, 0
        sums, hits = self.process.total(state.sums), self.process.total(state.augmented)
        if self.metrics:
            self._report(num_updates, wer, sums, hits)
        finished = CheckpointName(state.epoch, True)
        state.epoch, state.step, state.sums, state.augmented = state.epoch + 1, 0, {}, {}
        self._save(finished)
        self._stop_if_asked(saved=True)

    def _report(self, num_updates: int, wer: float | None, sums: dict[str, float], hits: dict[str, int]) -> None:
        assert self.metrics
        number, seconds = sums["utterances"], sums["train_s"]
        wait_share = sums["wait_s"] / seconds
        augmented = {name: hits.get(name, 0) for name in self.data.augmentation_names}
        line = {
            "epoch": self.state.epoch,
            "updates": num_updates,
            "lr": self._learning_rate(self.state.epoch, 0.0),
            "loss": {name: sums[name] / number for name in ("loss", "transducer", "ctc") if name in sums},
            "dev_wer": wer,
            "seconds": round(seconds, 3),
            "speech_s": round(sums["speech_s"], 2),
            "wait_share": round(wait_share, 4),
            "augmented": augmented,
            "utterances": int(number),
        }
        self.metrics.epoch(line)
        shares = [f"{name} {count}/{int(number)}" for name, count in augmented.items()]
        measured = "-" if wer is None else f"{wer:.2f} %"
        log(
            f"epoch {self.state.epoch}: loss {sums['loss'] / number:.3f}, dev WER {measured}, lr {line['lr']:.2e}, "
            f"{sums['speech_s'] / seconds:.0f} s of speech a second, waited {100 * wait_share:.1f} %, "
            f"augmented: {', '.join(shares) or 'nothing'}"
        )

    def _dev_wer(self) -> float:
        self.model.eval()
        cuts = self.data.dev[self.process.rank :: self.process.world_size]

        decoded = decode_cuts(
            self.model, self.data.dev_pipeline, cuts, make_search("greedy"),
            batch_seconds=self.config.decode.batch_seconds, device=self.process.device,
        )  # fmt: skip
        pairs, refused = [], ""
        try:
            pairs = [(transcript(cut), self.bundle.tokenizer.decode(nbest[0].tokens)) for cut, nbest in decoded]
        except UserError as error:
            refused = str(error)
        if reasons := [reason for reason in self.process.gather(refused) if reason]:
            raise UserError(reasons[0])  # in all processes, so that none waits for the others
        return word_error_rate([pair for part in self.process.gather(pairs) for pair in part])

    def _plan(self, epoch: int) -> list[Update]:
        train, perturb = self.config.train, self.config.length_perturbation
        cuts = self.hooks.select(self.data.train, epoch) if self.hooks.select else self.data.train
        budget = BatchBudget(
            train.batch_seconds, train.lattice_budget, self.process.world_size * train.accumulation_steps,
            self.bundle.tokenizer.vocab_size, self.data.train_pipeline.frame_shift_s * self.model.encoder.subsampling,
            growth=1 + perturb.insert_rate * perturb.max_insert if perturb.insert_probability > 0 else 1.0,
            prune_range=self.config.loss.prune_range,
        )  # fmt: skip
        return plan_epoch(cuts, self.num_tokens, budget, seed=train.seed, epoch=epoch, num_buckets=train.num_buckets)

    def _local_parts(self, update: Update) -> Update:
        number = self.config.train.accumulation_steps
        return update[self.process.rank * number : (self.process.rank + 1) * number]

    def _learning_rate(self, epoch: int, fraction: float) -> float:
        return learning_rate(self.config.train.schedule, epoch, fraction, self.config.train.num_epochs)

    def _checked(self, loaded: list[Batch] | LoaderError) -> list[Batch]:
        """The batches, or the loader's error of any process, raised in every one."""
        message = loaded.message if isinstance(loaded, LoaderError) else ""
        if self.process.any(bool(message)):
            raise UserError(next(m for m in self.process.gather(message) if m))
        assert not isinstance(loaded, LoaderError)
        return loaded

    def _save(self, name: CheckpointName) -> None:
        totals = {"sums": self.process.total(self.state.sums), "augmented": self.process.total(self.state.augmented)}
        if self.process.is_main:
            state = {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "loop": vars(self.state) | totals,
            }
            self.checkpoints.save(name, self.bundle, state, self.state.best_epoch)

    def _average(self) -> None:
        paths = self.checkpoints.last_epochs(self.config.train.average_epochs)
        average_weights(paths, self.bundle)
        save_model(self.exp_dir / "averaged.safetensors", self.bundle)
        log(f"averaged the last {len(paths)} epochs into {self.exp_dir / 'averaged.safetensors'}")

    def _early_stop(self) -> bool:
        patience = self.config.train.early_stop_epochs
        return bool(patience) and self.state.measurements_since_best >= patience

    def _stop_if_asked(self, saved: bool = False) -> None:
        if not self.process.any(bool(self.signals.number)):
            return
        if not saved:
            self._save(CheckpointName(self.state.epoch, False, self.state.step))
        raise Stopped(self.signals.number or signal.SIGTERM)

    def _count(self, batch: Batch, losses: Losses) -> None:
        self._add("loss", losses.total.item())
        for name, value in losses.parts.items():
            self._add(name, value.item())
        self._add("utterances", len(batch.token_lens))
        self._add("speech_s", sum(cut.duration for cut in batch.cuts))
        for name, hits in batch.augmented.items():
            self.state.augmented[name] = self.state.augmented.get(name, 0) + hits

    def _add(self, name: str, value: float) -> None:
        self.state.sums[name] = self.state.sums.get(name, 0.0) + value

    def _status(self, lr: float, started: float, speech_before_s: float) -> str:
        sums = self.state.sums
        speech_s = (sums.get("speech_s", 0.0) - speech_before_s) * self.process.world_size
        hours_a_second = speech_s / (time.monotonic() - started) / 3600
        loss = sums.get("loss", 0.0) / max(1.0, sums.get("utterances", 0.0))
        return f"loss {loss:.3f}, lr {lr:.1e}, {hours_a_second:.3f} h of speech/s"

    def _where(self, batches: list[Batch]) -> str:
        ids = " ".join(id for batch in batches for id in batch.utterance_ids)
        return f"epoch {self.state.epoch}, update {self.state.step} (utterances {ids})"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """All parameters, and without decay those that a module has marked ``no_weight_decay``."""
    marked = [p for p in model.parameters() if getattr(p, "no_weight_decay", False)]
    others = [p for p in model.parameters() if not getattr(p, "no_weight_decay", False)]
    groups: list[dict[str, object]] = [{"params": others, "weight_decay": weight_decay}]
    return [*groups, {"params": marked, "weight_decay": 0.0}] if marked else groups
