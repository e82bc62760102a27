"""Initial weights of a training: ``train.init_from``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asrkit.bundle.model_file import read_model_file
from asrkit.config_training import TrainConfig
from asrkit.console import log
from asrkit.distributed.learners import is_first_process
from asrkit.errors import UserError
from asrkit.quantization.qat import QUANTIZER_STATE, quantizers
from asrkit.text.tokenizer import Tokenizer
from asrkit.training.checkpoint import trained_tensors
from asrkit.training.objective import Trainable

MOST_NAMED = 5


def load_initial(settings: TrainConfig, module: Trainable, tokenizer: Tokenizer, exp_dir: Path) -> None:
    """Loads the weights of ``train.init_from``, if it is set and the experiment has no checkpoint yet.

    Objective weights that a shipped model lacks keep their random initialization; quantizers that a float model lacks
    start as the settings say.

    Raises:
        UserError: the file cannot be read, or differs in names, shapes or symbols and ``train.init_mismatch`` is
            ``error``.
    """
    if any((exp_dir / "checkpoints").glob("epoch-*.state.pt")):
        return
    if not settings.init_from:
        if quantizers(module) and is_first_process():
            log("train.init_from is not set: the quantized model starts from random weights")
        return
    file = read_model_file(Path(settings.init_from))
    ours = module.state_dict()
    theirs = {_name_here(name, ours): tensor for name, tensor in trained_tensors(file.tensors).items()}
    reshaped = sorted(name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape)
    lacking, extra = (
        sorted(name for name in names if name.startswith("model.") and QUANTIZER_STATE not in name)
        for names in (ours.keys() - theirs.keys(), theirs.keys() - ours.keys())
    )
    differences = [
        f"{what} {_named(names)}"
        for what, names in (("it lacks", lacking), ("it has extra", extra), ("these differ in shape:", reshaped))
        if names
    ]
    if file.tokenizer.to_dict() != tokenizer.to_dict():
        differences.append("its symbols differ")
    if differences:
        message = f"train.init_from={settings.init_from}: {'; '.join(differences)}"
        if settings.init_mismatch == "error":
            raise UserError(f"{message}; train.init_mismatch=report initializes those at random")
        if is_first_process():
            log(message)
    loaded = {name: theirs[name] for name in ours.keys() & theirs.keys() if name not in reshaped}
    module.load_state_dict(ours | loaded)
    if is_first_process():
        new = sum(QUANTIZER_STATE in name for name in ours.keys() - theirs.keys())
        bounds = f"; {new} belong to quantizers and are new" if new else ""
        log(f"starting from {settings.init_from}: {len(loaded)} of {len(ours)} tensors{bounds}")


def _name_here(name: str, ours: Mapping[str, object]) -> str:
    """A tensor's name in this training: with unlabelled speech, the supervised objective is part of another."""
    plain, part = "objective.", "objective.supervised."
    for other in (name.replace(part, plain, 1), name.replace(plain, part, 1)):
        if name not in ours and other in ours:
            return other
    return name


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
