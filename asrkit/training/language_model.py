"""Trains language models: one loop over encoded text, perplexity by epoch, checkpoints as for recognizers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.data.text_lines import TextLines, encode_text, plan_text_epoch
from asrkit.errors import UserError
from asrkit.features.pipeline import seeded_generator
from asrkit.files import write_json
from asrkit.models.language_model import (
    LanguageModel,
    LstmLanguageModel,
    TransformerLanguageModel,
    line_log_probs,
)
from asrkit.models.transducer import num_parameters
from asrkit.text.tokenizer import Tokenizer, tokenizer_from_dict
from asrkit.training.checkpoint import (
    CheckpointFolder,
    CheckpointName,
    holds_training,
    load_weights,
    read_tensors,
    write_model_file,
)
from asrkit.training.parallel import choose_device
from asrkit.training.progress import MetricsFile, log, progress_bar
from asrkit.training.run import remember_config
from asrkit.training.schedules import learning_rate
from asrkit.training.steps import autocast, begin_step, resolve_autocast
from asrkit.training.stopping import Stopped, StopSignals

KIND = "language_model"


@dataclass
class LanguageModelBundle:
    """A language model with its settings and symbols."""

    model: LanguageModel
    config: Config
    tokenizer: Tokenizer


def build_language_model(config: Config, vocab_size: int) -> LanguageModel:
    """The language model of an experiment, with random weights from torch's global generator.

    Raises:
        UserError: a width that the heads do not divide.
    """
    lm = config.lm
    if lm.type == "transformer" and lm.hidden_dim % lm.num_heads:
        raise UserError(f"lm.hidden_dim={lm.hidden_dim} is not a multiple of lm.num_heads={lm.num_heads}")
    if lm.type == "lstm":
        return LstmLanguageModel(vocab_size, lm.hidden_dim, lm.num_layers, lm.bottleneck_dim, lm.dropout)
    return TransformerLanguageModel(
        vocab_size, lm.hidden_dim, lm.num_layers, lm.num_heads, lm.max_symbols + 1, lm.dropout
    )


def save_language_model(path: Path, bundle: LanguageModelBundle) -> None:
    """Writes a language model's file in one piece."""
    write_model_file(path, bundle.model, bundle.config, bundle.tokenizer, header={"kind": KIND})


def load_language_model(path: Path) -> LanguageModelBundle:
    """Reads what :func:`save_language_model` wrote; the model is in evaluation mode.

    Raises:
        UserError: no such file, or not a language model of asrkit.
    """
    header, tensors = read_tensors(path)
    if header.get("kind") != KIND:
        raise UserError(f"{path} is not a language model; give the file that asrkit train-lm wrote")
    config = config_from_dict(json.loads(header["config"]), str(path))
    tokenizer = tokenizer_from_dict(json.loads(header["tokenizer"]))
    model = build_language_model(config, tokenizer.vocab_size)
    load_weights(model, tensors, path)
    return LanguageModelBundle(model.eval(), config, tokenizer)


@torch.no_grad()
def perplexity(model: LanguageModel, text: TextLines, batch_symbols: int, device: torch.device) -> float:
    """Per symbol, ends of lines included."""
    model.eval()
    total, number = 0.0, 0
    for lines in plan_text_epoch(text.lengths, batch_symbols, torch.Generator().manual_seed(0)):
        tokens, lens = (part.to(device) for part in text.batch(lines))
        total -= line_log_probs(model, tokens, lens, with_end=True).sum().item()
        number += int(lens.sum()) + len(lines)
    return _exp(total / number)


def _exp(mean_loss: float) -> float:
    return math.exp(mean_loss) if mean_loss < 700 else math.inf  # where exp would overflow


@dataclass
class _State:
    epoch: int = 1
    step: int = 0
    updates: int = 0
    best_perplexity: float = math.inf
    best_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)


def train_language_model(
    config: Config, tokenizer: Tokenizer, text: Sequence[Path], dev_text: Sequence[Path], exp_dir: Path
) -> None:
    """Trains, or goes on training, in ``exp_dir``; the epoch with the best perplexity becomes ``best.safetensors``.

    Args:
        config: the sections ``lm`` and ``train`` are used.
        tokenizer: the recognizer's symbols.
        text: files, see :func:`asrkit.data.text_lines.encode_text`.
        dev_text: files for the perplexity by epoch.
        exp_dir: where the experiment goes.

    Raises:
        UserError: unreadable text, a folder of another configuration, or a loss that is not finite.
        Stopped: on Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    if config.train.autocast == "fp16":
        raise UserError(
            "language models train without loss scaling; set train.autocast=auto, bf16 or none in place of fp16"
        )
    remember_config(config, exp_dir)
    write_json(exp_dir / "text.json", require_same_text(tokenizer, text, dev_text, exp_dir))
    torch.manual_seed(config.train.seed)
    bundle = LanguageModelBundle(build_language_model(config, tokenizer.vocab_size), config, tokenizer)
    longest = config.lm.max_symbols
    train, left_out = encode_text(text, tokenizer, exp_dir / "text" / "train", longest)
    dev, dev_left_out = encode_text(dev_text, tokenizer, exp_dir / "text" / "dev", longest)
    loop = _Loop(bundle, train, dev, exp_dir)
    log(
        f"{num_parameters(bundle.model):,} parameters, {tokenizer.vocab_size} symbols, autocast {loop.autocast}; "
        f"train {len(train)} lines with {len(train.tokens):,} symbols ({left_out} lines left out), "
        f"dev {len(dev)} lines ({dev_left_out} left out)"
    )
    loop.run()


def require_same_text(
    tokenizer: Tokenizer, text: Sequence[Path], dev_text: Sequence[Path], exp_dir: Path
) -> dict[str, Any]:
    """What is trained on, compared with what the folder's training has, if it has any.

    Raises:
        UserError: other text or other symbols.
    """
    now: dict[str, Any] = {"symbols": tokenizer.to_dict()}
    for name, paths in (("text", text), ("dev_text", dev_text)):
        # The size tells a file that has changed; a missing one is told when it is read.
        now[name] = [[str(p.resolve()), p.stat().st_size if p.is_file() else 0] for p in paths]
    path = exp_dir / "text.json"
    if path.is_file() and holds_training(exp_dir):
        before = json.loads(path.read_text(encoding="utf-8"))
        for name in now:
            if before[name] != now[name]:
                raise UserError(f"{exp_dir} holds a training on other {name}; choose another --exp-dir")
    return now


class _Loop:
    """The training loop."""

    def __init__(self, bundle: LanguageModelBundle, train: TextLines, dev: TextLines, exp_dir: Path) -> None:
        self.bundle, self.train, self.dev, self.exp_dir = bundle, train, dev, exp_dir
        settings = self.settings = bundle.config.train
        self.device = choose_device(settings.device)
        self.autocast = resolve_autocast(self.device, settings.autocast)
        self.model = bundle.model.to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=settings.weight_decay, fused=True)
        self.checkpoints = CheckpointFolder(exp_dir / "checkpoints", 2, settings.keep_every_epochs, save_language_model)
        self.state = _State()
        self.signals = StopSignals()
        self.clock = time.monotonic()

    def run(self) -> None:
        """All epochs that are left."""
        saved = self.checkpoints.load_latest(self.model)
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.state = _State(**saved["loop"])
            log(f"going on at epoch {self.state.epoch}, update {self.state.step} of it")
        metrics = MetricsFile(self.exp_dir)
        metrics.rewind(self.state.epoch)
        try:
            with self.signals:
                while self.state.epoch <= self.settings.num_epochs:
                    self._epoch(metrics)
        finally:
            metrics.close()
        best = self.checkpoints.weights(CheckpointName(self.state.best_epoch, True))
        load_weights(self.model, read_tensors(best)[1], best)
        save_language_model(self.exp_dir / "best.safetensors", self.bundle)
        log(f"best perplexity {self.state.best_perplexity:.3f} a symbol, after epoch {self.state.best_epoch}")

    def _epoch(self, metrics: MetricsFile) -> None:
        state, settings, lm = self.state, self.settings, self.bundle.config.lm
        generator = seeded_generator("text", settings.seed, state.epoch)
        plan = plan_text_epoch(self.train.lengths, lm.batch_symbols, generator)
        self.clock = time.monotonic()
        with progress_bar(f"epoch {state.epoch}/{settings.num_epochs}", len(plan), state.step) as bar:
            while state.step < len(plan):
                lr = learning_rate(settings.schedule, state.epoch, state.step / len(plan), settings.num_epochs)
                self._update(*self.train.batch(plan[state.step]), lr)
                state.step, state.updates = state.step + 1, state.updates + 1
                bar.advance(f"perplexity {_exp(state.sums['loss'] / state.sums['symbols']):.3f}, lr {lr:.1e}")
                due = state.step % settings.checkpoint_every_steps == 0 and state.step < len(plan)
                asked = self.signals.number
                if due or asked:
                    self._count_time()
                    self._save(CheckpointName(state.epoch, False, state.step))
                if asked:
                    raise Stopped(asked)
        dev = perplexity(self.model, self.dev, lm.batch_symbols, self.device)
        if dev < state.best_perplexity:
            state.best_perplexity, state.best_epoch = dev, state.epoch
        train = _exp(state.sums["loss"] / state.sums["symbols"])
        self._count_time()
        seconds = state.sums["seconds"]
        metrics.epoch({"epoch": state.epoch, "updates": len(plan), "train_perplexity": train, "dev_perplexity": dev,
                       "seconds": round(seconds, 1)})  # fmt: skip
        log(f"epoch {state.epoch}: perplexity {train:.3f}, dev {dev:.3f} a symbol, {seconds:.0f} s")
        finished = CheckpointName(state.epoch, True)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
        self._save(finished)

    def _update(self, tokens: torch.Tensor, lens: torch.Tensor, lr: float) -> None:
        state, settings = self.state, self.settings
        begin_step(self.optimizer, lr, settings.seed, state.epoch, state.step)
        self.model.train()
        symbols = int(lens.sum()) + len(lens)
        with autocast(self.device, self.autocast):
            loss = -line_log_probs(self.model, tokens.to(self.device), lens.to(self.device), with_end=True).sum()
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is not finite at epoch {state.epoch}, update {state.step}; lower the learning rate"
            )
        (loss / symbols).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.sums["loss"] = state.sums.get("loss", 0.0) + loss.item()
        state.sums["symbols"] = state.sums.get("symbols", 0.0) + symbols

    def _count_time(self) -> None:
        now = time.monotonic()
        self.state.sums["seconds"] = self.state.sums.get("seconds", 0.0) + now - self.clock
        self.clock = now

    def _save(self, name: CheckpointName) -> None:
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), "loop": vars(self.state)}
        self.checkpoints.save(name, self.bundle, state, self.state.best_epoch)
