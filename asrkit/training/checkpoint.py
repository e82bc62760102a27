"""Training checkpoints: model files, with the state of loop and optimizer next to them.

The state is read with ``weights_only=True``: no loader here runs code from a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.bundle.model_file import part_of, read_model_file, require_same_weights
from asrkit.console import log
from asrkit.distributed.own_state import LEARNER
from asrkit.errors import UserError
from asrkit.quantization.qat import OBSERVED_BOUND
from asrkit.records import digest
from asrkit.tensor_files import write_state

STATE_FORMAT = 2


def trained_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint that training changes: the model's and the objective's."""
    return {f"{part}.{name}": t for part in ("model", "objective") for name, t in part_of(tensors, part).items()}


def average_tensors(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean tensors of several model files; bounds that quantizers observed are the last file's."""
    total: dict[str, torch.Tensor] = {}
    for path in paths:
        for name, tensor in read_model_file(path).tensors.items():
            if name.endswith(OBSERVED_BOUND):
                total[name] = tensor.double() * len(paths)
            else:
                total[name] = total.get(name, torch.zeros_like(tensor, dtype=torch.float64)) + tensor.double()
    return {name: (tensor / len(paths)).float() for name, tensor in total.items()}


_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.state\.pt")


@dataclass(frozen=True, order=True)
class CheckpointName:
    """Where in training a checkpoint was saved: within ``epoch``, after ``step`` updates, or at its end."""

    epoch: int
    at_end: bool
    step: int = 0

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"epoch-{self.epoch:04d}" + ("" if self.at_end else f"-step-{self.step:06d}")


def holds_training(exp_dir: Path) -> bool:
    """Whether ``exp_dir`` holds a training's checkpoint or model."""
    return any((exp_dir / "checkpoints").glob("epoch-*")) or any(exp_dir.glob("*.safetensors"))


class CheckpointFolder:
    """The checkpoints of one run: the last two with training state, and the weights worth keeping."""

    def __init__(self, folder: Path, keep_last: int, keep_every_epochs: int) -> None:
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.keep_every_epochs = keep_every_epochs

    def weights(self, name: CheckpointName) -> Path:
        """The model file of a checkpoint."""
        return self.folder / f"{name.stem}.safetensors"

    def state(self, name: CheckpointName) -> Path:
        """The training state of a checkpoint."""
        return self.folder / f"{name.stem}.state.pt"

    def digest(self, name: CheckpointName) -> Path:
        """The digest that verifies the training state."""
        return self.folder / f"{name.stem}.state.sha256"

    def _require_sound(self, name: CheckpointName) -> None:
        path = self.digest(name)
        if path.is_file() and path.read_text(encoding="utf-8").strip() != digest(self.state(name)):
            raise UserError("it is not what was written")

    def resumable(self) -> list[CheckpointName]:
        """Checkpoints with training state, oldest first."""
        names = []
        for path in self.folder.glob("epoch-*.state.pt"):
            match = _NAME.fullmatch(path.name)
            if match:
                names.append(CheckpointName(int(match[1]), match[2] is None, int(match[2] or 0)))
        return sorted(names)

    def save(self, name: CheckpointName, write: Callable[[Path], None], state: dict[str, Any], best_epoch: int) -> None:
        """Writes a checkpoint, weights first (state without weights would not be resumable), then prunes."""
        write(self.weights(name))
        write_state(self.state(name), {"format": STATE_FORMAT, **state}, self.digest(name))
        self._prune(best_epoch)

    def load_latest(self, module: nn.Module) -> dict[str, Any] | None:
        """Loads the newest readable checkpoint's weights and returns its state, None if there is none.

        Args:
            module: a model and its objective, as :class:`asrkit.training.objective.Trainable` names them.

        Raises:
            UserError: the checkpoint has another architecture, or checkpoints exist but none can be read.
        """
        names = self.resumable()
        for name in reversed(names):
            path = self.weights(name)
            try:
                tensors = trained_tensors(read_model_file(path).tensors)
                self._require_sound(name)
                state: dict[str, Any] = torch.load(self.state(name), map_location="cpu", weights_only=True)
            except Exception as error:  # damage can raise any error
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                log(f"the checkpoint {name.stem} cannot be read ({reason}); trying the one before")
                continue
            require_same_weights(module, tensors, path)
            module.load_state_dict(tensors)
            return upgrade_state(state)
        if names:
            raise UserError(f"no checkpoint in {self.folder} can be read; remove that folder to train from the start")
        return None

    def last_epochs(self, number: int) -> list[Path]:
        """Model files of the last ``number`` finished epochs."""
        return sorted(p for p in self.folder.glob("epoch-*.safetensors") if "-step-" not in p.name)[-number:]

    def _prune(self, best_epoch: int) -> None:
        names = self.resumable()
        for name in names[:-2]:
            self.state(name).unlink()
            self.digest(name).unlink(missing_ok=True)
        stems = {name.stem for name in names[-2:]}
        for path in self.folder.glob(f"epoch-*{LEARNER}*"):
            if path.name.split(LEARNER)[0] not in stems:
                path.unlink()
        keep = {self.weights(name) for name in names[-2:]} | set(self.last_epochs(self.keep_last))
        keep.add(self.weights(CheckpointName(best_epoch, True)))
        for path in self.folder.glob("epoch-*.safetensors"):
            epoch = int(path.stem.split("-")[1])
            every = self.keep_every_epochs and epoch % self.keep_every_epochs == 0 and "-step-" not in path.name
            if path not in keep and not every:
                path.unlink()


def upgrade_state(state: dict[str, Any]) -> dict[str, Any]:
    """Converts a checkpoint's state from any version to this one."""
    version = state.pop("format", 1)
    if version == STATE_FORMAT:
        return state
    if version != 1:
        raise UserError(f"the checkpoint has format {version}, which a later version of asrkit wrote; use that one")
    loop = dict(state["loop"])
    sums, number = loop.pop("sums", {}), 0.0
    best = loop.pop("best_wer", None)
    if best is None:  # a language model's, whose loss counted symbols
        best = loop.pop("best_perplexity")
        sums = (
            {"loss": sums["loss"], "utterances": sums["symbols"], "train_s": sums["seconds"], "wait_s": 0.0}
            if sums
            else {}
        )
    number = sums.get("utterances", 0.0)
    upgraded = {name: value for name, value in sums.items() if name in ("utterances", "speech_s", "train_s", "wait_s")}
    for name in ("loss", "ctc", "transducer"):
        if name in sums:
            upgraded |= {f"loss/{name}": sums[name], f"number/{name}": number}
    upgraded |= {f"augmented/{name}": hits for name, hits in loop.pop("augmented", {}).items()}
    scaler = state.get("scaler", {})
    return {"optimizer": state["optimizer"], "scaler": scaler, "loop": loop | {"best": best, "sums": upgraded}}
