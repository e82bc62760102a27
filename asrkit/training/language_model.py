"""Language model training on text: which lines form an update, and how perplexity is measured."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.bundle.build import build_language_model
from asrkit.bundle.model_file import (
    LANGUAGE_MODEL,
    ModelBundle,
    ModelFile,
    read_model_file,
    save_language_model,
    write_model_file,
)
from asrkit.config import Config
from asrkit.console import log
from asrkit.data.folder import load_tokenizer
from asrkit.data.loaders import LoaderError
from asrkit.data.text_lines import TextLines, encode_text, plan_text_epoch
from asrkit.distributed.join import join_learners
from asrkit.distributed.learners import Learners, is_first_process, only_process_in
from asrkit.errors import UserError
from asrkit.models.language_model import LanguageModel, line_log_probs
from asrkit.models.transducer import num_parameters
from asrkit.randomness import seeded_generator
from asrkit.records import INPUTS, digest
from asrkit.text.tokenizer import Tokenizer
from asrkit.training.checkpoint import CheckpointFolder, CheckpointName, holds_training
from asrkit.training.initial import load_initial
from asrkit.training.inputs import start_training
from asrkit.training.loop import Loop
from asrkit.training.objective import Losses, LossPart, Trainable
from asrkit.training.phase import Phase
from asrkit.training.schedules import learning_rate
from asrkit.training.task import Step

MODEL = "best.safetensors"
"""The final model."""
PHASE = Phase("language model")


@dataclass(frozen=True)
class TextBatch:
    """Lines of text."""

    tokens: torch.Tensor
    """(B, U) int64, padded with 0."""
    token_lens: torch.Tensor
    """(B,) int64."""
    lines: tuple[int, ...]
    """Line numbers in the text."""

    def to(self, device: torch.device) -> TextBatch:
        """The same batch with its tensors on ``device``."""
        return TextBatch(self.tokens.to(device), self.token_lens.to(device), self.lines)

    @property
    def num_symbols(self) -> int:
        """Including line ends."""
        return int(self.token_lens.sum()) + len(self.token_lens)


class TextObjective(nn.Module):
    """-log p of complete lines, including their ends."""

    def forward(self, model: LanguageModel, batch: TextBatch, phase: Phase) -> Losses:
        """The sum over the symbols of a batch."""
        total = -line_log_probs(model, batch.tokens, batch.token_lens, with_end=True).sum()
        return Losses(total, batch.num_symbols, {"cross_entropy": LossPart(total.detach(), batch.num_symbols)})


class LanguageModelTask:
    """Trains a language model; see :class:`asrkit.training.task.Task`.

    Args:
        bundle: the language model.
        train: lines to train on.
        dev: lines for the perplexity per epoch.
        learners: those training together.
        exp_dir: where the final model goes.
    """

    dev_measure = "dev_perplexity"
    epochs_kept = 2

    def __init__(
        self, bundle: ModelBundle[LanguageModel], train: TextLines, dev: TextLines, learners: Learners, exp_dir: Path
    ) -> None:
        self.bundle, self.train, self.dev, self.learners, self.exp_dir = bundle, train, dev, learners, exp_dir
        self.settings, self.batch_symbols = bundle.config.train, bundle.config.lm.batch_symbols
        self.num_epochs = self.settings.num_epochs
        self.module = Trainable(bundle.model, TextObjective())

    def plan(self, epoch: int) -> list[Step]:
        """All updates of an epoch; lines are dealt to the parts in turn, in order of length."""
        generator = seeded_generator("text", self.settings.seed, epoch)
        parts = self.learners.world_size * self.settings.accumulation_steps
        steps = []
        for lines in plan_text_epoch(self.train.lengths, self.batch_symbols, generator):
            symbols = int(self.train.lengths[lines].sum()) + len(lines)
            steps.append(Step([lines[part::parts] for part in range(parts)], symbols, PHASE))
        return steps

    def learning_rate(self, epoch: int, fraction: float) -> float:
        """The rate after a fraction of an epoch (from 1)."""
        return learning_rate(self.settings.schedule, epoch, fraction, self.settings.num_epochs)

    def batches(
        self, parts: Sequence[Sequence[Any]], epoch: int
    ) -> Generator[list[TextBatch] | LoaderError, None, None]:
        """This learner's batches, one list per share."""
        for share in parts:
            yield [TextBatch(*self.train.batch(lines), tuple(lines.tolist())) for lines in share]

    def counts(self, batch: TextBatch) -> dict[str, float]:
        """Lines."""
        return {"lines": len(batch.lines)}

    def describe(self, batch: TextBatch) -> str:
        """The lines of a batch."""
        return f"{len(batch.lines)} lines such as {batch.lines[0]}"

    def measure(self, epoch: int) -> float:
        """Perplexity per symbol on dev."""
        return perplexity(self.bundle.model, self.dev, self.batch_symbols, self.learners)

    def status(self, sums: Mapping[str, float], seconds: float) -> str:
        """Perplexity and speed."""
        symbols = sums.get("number/loss", 0.0)
        mean = sums.get("loss/loss", 0.0) / max(1.0, symbols)
        return f"perplexity {_exp(mean):.3f}, {symbols / seconds:.0f} symbols/s"

    def epoch_values(self, sums: Mapping[str, float]) -> dict[str, Any]:
        """Perplexity of the training text."""
        return {"train_perplexity": _exp(sums["loss/loss"] / sums["number/loss"]), "lines": int(sums.get("lines", 0))}

    def summary(self, values: Mapping[str, Any]) -> str:
        """An epoch in one line."""
        return (
            f"perplexity {values['train_perplexity']:.3f}, dev {values['dev_perplexity']:.3f} per symbol, "
            f"lr {values['lr']:.2e}, {values['seconds']:.0f} s"
        )

    def save(self, path: Path) -> None:
        """Writes the language model."""
        save_language_model(path, self.bundle)

    def finish(self, checkpoints: CheckpointFolder, best_epoch: int) -> None:
        """Writes the epoch with the best perplexity."""
        target = self.exp_dir / MODEL
        tensors = read_model_file(checkpoints.weights(CheckpointName(best_epoch, True))).tensors
        write_model_file(ModelFile(target, LANGUAGE_MODEL, self.bundle.config, self.bundle.tokenizer, tensors))
        log(f"copied epoch {best_epoch}, which has the best dev perplexity, into {target}")


@torch.no_grad()
def perplexity(model: LanguageModel, text: TextLines, batch_symbols: int, learners: Learners) -> float:
    """Per symbol, including line ends. All learners call it together, each on its share of the lines."""
    model.eval()
    batches = plan_text_epoch(text.lengths, batch_symbols, seeded_generator(0))
    totals = {"lines": 0.0}
    while totals["lines"] < len(text.lengths):  # repeated if a learner was lost with its share
        sums = {"loss": 0.0, "symbols": 0.0, "lines": 0.0}
        place, present = learners.place
        for lines in batches[place::present]:
            tokens, lens = (part.to(learners.device) for part in text.batch(lines))
            sums["loss"] -= line_log_probs(model, tokens, lens, with_end=True).sum().item()
            sums["symbols"] += int(lens.sum()) + len(lines)
            sums["lines"] += len(lines)
        totals = learners.total(sums)
    return _exp(totals["loss"] / totals["symbols"])


def _exp(mean_loss: float) -> float:
    return math.exp(mean_loss) if mean_loss < 700 else math.inf  # where exp would overflow


def text_inputs(tokenizer_path: Path, text: Sequence[Path], dev_text: Sequence[Path]) -> dict[str, Any]:
    """What a language model's training depends on besides its settings."""
    return {
        "symbols": digest(tokenizer_path),
        "text": [digest(path) for path in text],
        "dev_text": [digest(path) for path in dev_text],
    }


def require_text_of_version_1(
    exp_dir: Path, tokenizer: Tokenizer, text: Sequence[Path], dev_text: Sequence[Path]
) -> None:
    """Compares the text with that of a training of version 0.1, which kept paths and sizes.

    Raises:
        UserError: other text or other symbols.
    """
    path = exp_dir / "text.json"
    if not path.is_file() or (exp_dir / INPUTS).is_file() or not holds_training(exp_dir):
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    now: dict[str, Any] = {"symbols": tokenizer.to_dict()}
    for name, paths in (("text", text), ("dev_text", dev_text)):
        now[name] = [[str(p.resolve()), p.stat().st_size if p.is_file() else 0] for p in paths]
    for name, value in now.items():
        if before.get(name) != value:
            raise UserError(f"{exp_dir} holds a training on other {name}; choose another --exp-dir")


def train_language_model(
    config: Config,
    tokenizer_path: Path,
    text: Sequence[Path],
    dev_text: Sequence[Path],
    exp_dir: Path,
) -> None:
    """Trains, or resumes, in ``exp_dir``; the epoch with the best perplexity becomes ``best.safetensors``.

    Args:
        config: the sections ``lm`` and ``train`` are used.
        tokenizer_path: the recognizer's symbols.
        text: files, see :func:`asrkit.data.text_lines.encode_text`.
        dev_text: files for the perplexity per epoch.
        exp_dir: the experiment folder.

    Raises:
        UserError: unreadable text, a folder of another configuration, or a non-finite loss.
        asrkit.training.stopping.Stopped: on Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    tokenizer, inputs = load_tokenizer(tokenizer_path), text_inputs(tokenizer_path, text, dev_text)
    require_text_of_version_1(exp_dir, tokenizer, text, dev_text)
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_process_in(exp_dir))
        if is_first_process():
            start_training(config, exp_dir, MODEL, inputs, "train-lm")
        longest = config.lm.max_symbols
        # Before the processes join, since encoding a large text takes longer than their timeout.
        train, excluded = encode_text(text, tokenizer, exp_dir / "text" / "train", longest)
        dev, dev_excluded = encode_text(dev_text, tokenizer, exp_dir / "text" / "dev", longest)
        learners = stack.enter_context(join_learners(config.train))
        torch.manual_seed(config.train.seed)
        bundle = ModelBundle(build_language_model(config, tokenizer.vocab_size), config, tokenizer)
        task = LanguageModelTask(bundle, train, dev, learners, exp_dir)
        load_initial(config.train, task.module, tokenizer, exp_dir)
        loop = Loop(task, exp_dir, learners)
        if learners.is_main:
            log(
                f"{num_parameters(bundle.model):,} parameters, {tokenizer.vocab_size} symbols, "
                f"autocast {loop.autocast}, {learners.world_size} process(es); "
                f"train {len(train)} lines with {len(train.tokens):,} symbols ({excluded}), "
                f"dev {len(dev)} lines ({dev_excluded})"
            )
        loop.run()
