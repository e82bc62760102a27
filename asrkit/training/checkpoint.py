"""Model files and training state on disk.

A model file is one ``.safetensors``: weights, feature statistics, and (as JSON in its header) the merged
configuration and the tokenizer, so that it is enough to decode. Training state (optimizer, loop) lies beside
it as ``.state.pt`` and is read with ``weights_only=True``. No loader here runs code from a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from asrkit.config import Config
from asrkit.config_files import config_from_dict, config_to_dict
from asrkit.errors import UserError
from asrkit.features.normalization import GLOBAL, MeanStd
from asrkit.files import atomic_path
from asrkit.models.transducer import Transducer
from asrkit.text.tokenizer import Tokenizer, tokenizer_from_dict
from asrkit.training.build import build_model
from asrkit.training.progress import log

FORMAT = "1"


@dataclass
class ModelBundle:
    """A model with all that is needed to use it."""

    model: Transducer
    config: Config
    tokenizer: Tokenizer
    statistics: dict[str, MeanStd]


def save_model(path: Path, bundle: ModelBundle) -> None:
    """Writes a model file in one piece.

    Raises:
        UserError: it cannot be written; an earlier file of that name stays as it was.
    """
    statistics = {}
    if GLOBAL in bundle.statistics:
        found = bundle.statistics[GLOBAL]
        statistics = {"statistics.mean": found.mean, "statistics.std": found.std}
    write_model_file(path, bundle.model, bundle.config, bundle.tokenizer, statistics)


def write_model_file(
    path: Path,
    model: nn.Module,
    config: Config,
    tokenizer: Tokenizer,
    tensors: dict[str, torch.Tensor] | None = None,
    header: dict[str, str] | None = None,
) -> None:
    """Writes weights, configuration and symbols of any model in one piece.

    Args:
        path: the file.
        model: its weights become ``model.<name>``; a shared one is written under each of its names.
        config: the experiment.
        tokenizer: the symbols.
        tensors: more of them.
        header: more of it.

    Raises:
        UserError: it cannot be written; an earlier file of that name stays as it was.
    """
    # Copies, since the format refuses tensors that share memory.
    weights = {f"model.{name}": value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    header = (header or {}) | {
        "asrkit_format": FORMAT,
        "config": json.dumps(config_to_dict(config)),
        "tokenizer": json.dumps(tokenizer.to_dict()),
    }
    tensors = weights | (tensors or {})
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_model(path: Path) -> ModelBundle:
    """Reads a model file that :func:`save_model` wrote; the model is in evaluation mode.

    Raises:
        UserError: no such file, no asrkit model, or weights of another architecture than its configuration's.
    """
    header, tensors = read_tensors(path)
    if "kind" in header:
        raise UserError(f"{path} is a {header['kind'].replace('_', ' ')}, not a recognizer")
    config = config_from_dict(json.loads(header["config"]), str(path))
    tokenizer = tokenizer_from_dict(json.loads(header["tokenizer"]))
    model = build_model(config, tokenizer.vocab_size)
    load_weights(model, tensors, path)
    statistics = {}
    if "statistics.mean" in tensors:
        statistics[GLOBAL] = MeanStd(tensors["statistics.mean"], tensors["statistics.std"])
    return ModelBundle(model.eval(), config, tokenizer, statistics)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Header and tensors of a model file.

    Raises:
        UserError: no such file, or not a model file of asrkit.
    """
    if not Path(path).is_file():
        raise UserError(f"no model file at {path}; give the path of a .safetensors file that asrkit wrote")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable .safetensors file ({error}); it may be truncated") from error
    if header.get("asrkit_format") != FORMAT:
        raise UserError(f"{path} is not an asrkit model of format {FORMAT}; export it with this version")
    return header, tensors


def load_weights(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copies a file's weights into a model.

    Raises:
        UserError: the file holds another architecture; the first difference is named.
    """
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    for name, parameter in model.state_dict().items():
        if name not in weights:
            raise UserError(f"{path} is a checkpoint of another architecture: it has no '{name}'")
        if weights[name].shape != parameter.shape:
            raise UserError(
                f"{path} is a checkpoint of another architecture: '{name}' is {tuple(weights[name].shape)} there "
                f"and {tuple(parameter.shape)} here"
            )
    extra = weights.keys() - model.state_dict().keys()
    if extra:
        raise UserError(f"{path} is a checkpoint of another architecture: '{min(extra)}' has no place here")
    model.load_state_dict(weights)


def average_weights(paths: Sequence[Path], bundle: ModelBundle) -> None:
    """Sets the bundle's model to the mean of the weights of several model files."""
    total: dict[str, torch.Tensor] = {}
    for path in paths:
        for name, tensor in read_tensors(path)[1].items():
            total[name] = total.get(name, torch.zeros_like(tensor, dtype=torch.float64)) + tensor.double()
    load_weights(bundle.model, {name: (t / len(paths)).float() for name, t in total.items()}, paths[-1])


_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.state\.pt")


@dataclass(frozen=True, order=True)
class CheckpointName:
    """Where in training a checkpoint was made: within ``epoch``, after ``step`` updates, or at its end."""

    epoch: int
    at_end: bool
    step: int = 0

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"epoch-{self.epoch:04d}" + ("" if self.at_end else f"-step-{self.step:06d}")


def holds_training(exp_dir: Path) -> bool:
    """Whether a training has saved a checkpoint or a model in ``exp_dir``."""
    return any((exp_dir / "checkpoints").glob("epoch-*")) or any(exp_dir.glob("*.safetensors"))


class CheckpointFolder:
    """The checkpoints of one run: the last two with training state, and the weights worth keeping."""

    def __init__(
        self,
        folder: Path,
        keep_last: int,
        keep_every_epochs: int,
        write: Callable[[Path, Any], None] = save_model,
    ) -> None:
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.keep_every_epochs = keep_every_epochs
        self.write = write

    def weights(self, name: CheckpointName) -> Path:
        """The model file of a checkpoint."""
        return self.folder / f"{name.stem}.safetensors"

    def state(self, name: CheckpointName) -> Path:
        """The training state of a checkpoint."""
        return self.folder / f"{name.stem}.state.pt"

    def resumable(self) -> list[CheckpointName]:
        """Checkpoints that hold training state, oldest first."""
        found = []
        for path in self.folder.glob("epoch-*.state.pt"):
            match = _NAME.fullmatch(path.name)
            if match:
                found.append(CheckpointName(int(match[1]), match[2] is None, int(match[2] or 0)))
        return sorted(found)

    def save(self, name: CheckpointName, bundle: object, state: dict[str, Any], best_epoch: int) -> None:
        """Writes a checkpoint, weights first (state without weights would not be resumable), then prunes."""
        self.write(self.weights(name), bundle)
        with atomic_path(self.state(name)) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch reports a full disk as a RuntimeError of its zip writer
                raise OSError(str(error).splitlines()[0]) from error
        self._prune(best_epoch)

    def load_latest(self, model: nn.Module) -> dict[str, Any] | None:
        """Loads the newest readable checkpoint's weights into ``model`` and returns its state, None where none is.

        Raises:
            UserError: the checkpoint is of another architecture, or there are some and none can be read.
        """
        names = self.resumable()
        for name in reversed(names):
            path = self.weights(name)
            try:
                tensors = read_tensors(path)[1]
                state = torch.load(self.state(name), map_location="cpu", weights_only=True)
            except Exception as error:  # damage shows as errors of any kind
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                log(f"the checkpoint {name.stem} cannot be read ({reason}); trying the one before")
                continue
            load_weights(model, tensors, path)
            return cast(dict[str, Any], state)
        if names:
            raise UserError(f"no checkpoint in {self.folder} can be read; remove that folder to train anew")
        return None

    def last_epochs(self, number: int) -> list[Path]:
        """Model files of the last ``number`` finished epochs."""
        return sorted(p for p in self.folder.glob("epoch-*.safetensors") if "-step-" not in p.name)[-number:]

    def _prune(self, best_epoch: int) -> None:
        names = self.resumable()
        for name in names[:-2]:
            self.state(name).unlink()
        keep = {self.weights(name) for name in names[-2:]} | set(self.last_epochs(self.keep_last))
        keep.add(self.weights(CheckpointName(best_epoch, True)))
        for path in self.folder.glob("epoch-*.safetensors"):
            epoch = int(path.stem.split("-")[1])
            every = self.keep_every_epochs and epoch % self.keep_every_epochs == 0 and "-step-" not in path.name
            if path not in keep and not every:
                path.unlink()
