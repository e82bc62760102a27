"""Model files: recognizers and language models on disk.

A model file is one ``.safetensors`` that suffices for decoding: weights, feature statistics and, in its header as JSON,
the merged configuration and the tokenizer. Its header holds the format version, the kind of model, and a digest of all
tensors that is checked when the file is read. No function here runs code from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from asrkit.bundle.build import build_language_model, build_transducer
from asrkit.bundle.migrations import FORMAT, FUSED_FORMAT, upgrade
from asrkit.config import Config, FusionConfig
from asrkit.config_files import config_from_dict, config_to_dict, typed
from asrkit.errors import UserError, shown
from asrkit.features.normalization import GLOBAL, MeanStd
from asrkit.files import atomic_path
from asrkit.models.language_model import LanguageModel, LstmLanguageModel
from asrkit.models.transducer import Transducer
from asrkit.quantization.packing import PACKED, pack_weights, unpack_weights
from asrkit.settings import is_read, settings_of
from asrkit.tensor_files import sort_header
from asrkit.text.tokenizer import Tokenizer, tokenizer_from_dict

RECOGNIZER, LANGUAGE_MODEL = "recognizer", "language_model"
DIGEST = "sha256_header"
KNOWN = {"asrkit_format", "kind", "config", "tokenizer", "sha256", "fusion", DIGEST}
"""Allowed header fields."""
ROLES = ("target", "source")
"""Roles of language models in a recognizer's file."""
Model = TypeVar("Model", bound=nn.Module)
Tensors = Mapping[str, torch.Tensor]


@dataclass
class ModelBundle(Generic[Model]):
    """A model with everything needed to use it."""

    model: Model
    config: Config
    tokenizer: Tokenizer
    statistics: dict[str, MeanStd] = field(default_factory=dict)
    """Feature statistics of recognizers."""
    fused: FusedModels | None = None
    """Language models of a recognizer."""


@dataclass
class FusedModels:
    """Language models over a recognizer's symbols, for its searches."""

    fusion: FusionConfig
    """Their weights; its files are empty, except for the transducer's internal language model as the source."""
    models: dict[str, ModelBundle[LanguageModel]]
    """By ``target`` and ``source``, if present."""


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file, in the current version of the format."""

    path: Path
    kind: str
    config: Config
    tokenizer: Tokenizer
    tensors: dict[str, torch.Tensor]
    """Weights ``model.*``, training state ``objective.*``, and ``statistics.*``. On disk, quantized weights of an
    exported model are ``packed.*``."""
    fusion: dict[str, Any] | None = None
    """The weights of language models in the file, and their configurations; their tensors are ``target.*`` and
    ``source.*``."""


def save_recognizer(
    path: Path, bundle: ModelBundle[Transducer], objective: Tensors | None = None, packed: bool = False
) -> None:
    """Writes a recognizer atomically.

    Args:
        path: the file.
        bundle: the recognizer; statistics of the training set are written, those of speakers are not.
        objective: state that is needed only in training, also written.
        packed: write only the codes of quantized weights, from which the same model can be loaded.

    Raises:
        UserError: it cannot be written, or packed; an earlier file of that name is unchanged.
    """
    tensors = {}
    if GLOBAL in bundle.statistics:
        overall = bundle.statistics[GLOBAL]
        tensors = {"statistics.mean": overall.mean, "statistics.std": overall.std}
    tensors |= {f"objective.{name}": tensor for name, tensor in (objective or {}).items()}
    fusion: dict[str, Any] | None = None
    if bundle.fused is not None:
        fusion = {"weights": asdict(bundle.fused.fusion), "models": {}}
        for role, lm in bundle.fused.models.items():
            fusion["models"][role] = config_to_dict(lm.config)
            tensors |= {f"{role}.{name}": tensor for name, tensor in _weights(path, lm, packed).items()}
    _save(path, RECOGNIZER, bundle, tensors, packed, fusion)


def save_language_model(path: Path, bundle: ModelBundle[LanguageModel], packed: bool = False) -> None:
    """Writes a language model atomically; ``packed`` as in :func:`save_recognizer`.

    Raises:
        UserError: it cannot be written; an earlier file of that name is unchanged.
    """
    _save(path, LANGUAGE_MODEL, bundle, {}, packed)


def load_recognizer(path: Path) -> ModelBundle[Transducer]:
    """Reads a recognizer; the model is in evaluation mode.

    Raises:
        UserError: no such file, not an asrkit recognizer, or weights that do not fit its configuration.
    """
    return recognizer_of(read_model_file(path))


def load_language_model(path: Path) -> ModelBundle[LanguageModel]:
    """Reads a language model; it is in evaluation mode.

    Raises:
        UserError: no such file, or not an asrkit language model.
    """
    return language_model_of(read_model_file(path))


def recognizer_of(file: ModelFile) -> ModelBundle[Transducer]:
    """The recognizer in a file already read; see :func:`load_recognizer`."""
    if file.kind != RECOGNIZER:
        raise UserError(f"{file.path} is a {file.kind.replace('_', ' ')}, not a recognizer")
    statistics = {}
    if "statistics.mean" in file.tensors:
        statistics[GLOBAL] = _statistics(file)
    fused = None if file.fusion is None else _fused(file, file.fusion)
    return ModelBundle(_load(file, build_transducer), file.config, file.tokenizer, statistics, fused)


def _statistics(file: ModelFile) -> MeanStd:
    try:
        statistics = MeanStd(file.tensors["statistics.mean"], file.tensors["statistics.std"])
    except KeyError as error:
        raise UserError(f"{file.path} is damaged: it has no {error}") from error
    shape = (file.config.features.num_mel_bins,)
    mean, std = statistics.mean, statistics.std
    if not (mean.shape == std.shape == shape and mean.is_floating_point() and (std > 0).all()):
        raise UserError(f"{file.path} is damaged: its feature statistics are not those of {shape[0]} bands")
    return statistics


def language_model_of(file: ModelFile) -> ModelBundle[LanguageModel]:
    """The language model in a file already read; see :func:`load_language_model`."""
    if file.kind != LANGUAGE_MODEL:
        raise UserError(f"{file.path} is not a language model; give the file that asrkit train-lm wrote")
    return ModelBundle(_load(file, build_language_model), file.config, file.tokenizer)


def read_model_file(path: Path) -> ModelFile:
    """Reads a model file of this or an earlier version.

    Raises:
        UserError: no such file, not an asrkit model file, or a damaged one.
    """
    header, tensors = _read(Path(path))
    try:
        kind, config_values, tokenizer_values = header["kind"], json.loads(header["config"]), header["tokenizer"]
        if kind not in (RECOGNIZER, LANGUAGE_MODEL):
            raise ValueError(f"a model of kind {shown(kind[:40])}")
        tokenizer = tokenizer_from_dict(json.loads(tokenizer_values))
        fusion = json.loads(header["fusion"]) if header["asrkit_format"] == FUSED_FORMAT else None
        if header["asrkit_format"] == FUSED_FORMAT and not isinstance(fusion, dict):
            raise ValueError("no language models")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError, OSError) as error:
        reason = shown(repr(error)[:200])
        raise UserError(f"{path} is damaged: its header cannot be read ({reason}); copy or export it again") from error
    config = config_from_dict(config_values, str(path))
    return _unpacked(ModelFile(Path(path), kind, config, tokenizer, tensors, fusion))


def write_model_file(file: ModelFile) -> None:
    """Writes a model file atomically.

    Raises:
        UserError: it cannot be written; an earlier file of that name is unchanged.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in file.tensors.items()}
    header = {
        "asrkit_format": FORMAT if file.fusion is None else FUSED_FORMAT,
        "kind": file.kind,
        "config": json.dumps(config_to_dict(file.config)),
        "tokenizer": json.dumps(file.tokenizer.to_dict()),
        "sha256": tensors_digest(tensors),
    }
    if file.fusion is not None:
        header["fusion"] = json.dumps(file.fusion)
    header[DIGEST] = header_digest(header)
    with atomic_path(file.path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        sort_header(temporary)


def header_digest(header: Mapping[str, str]) -> str:
    """SHA-256 of all header fields except the digest."""
    text = json.dumps({name: value for name, value in header.items() if name != DIGEST}, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def part_of(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix`` and a dot, without both."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def require_same_weights(module: nn.Module, weights: Tensors, path: Path) -> None:
    """Refuses weights of another architecture.

    Raises:
        UserError: names the first difference.
    """
    for name, parameter in module.state_dict().items():
        if name not in weights:
            raise UserError(f"{path} is a checkpoint of another architecture: it has no '{name}'")
        if weights[name].is_floating_point() != parameter.is_floating_point():
            raise UserError(f"{path} is damaged: '{name}' is of type {weights[name].dtype}, not {parameter.dtype}")
        if weights[name].shape != parameter.shape:
            raise UserError(
                f"{path} is a checkpoint of another architecture: '{name}' is {tuple(weights[name].shape)} there "
                f"and {tuple(parameter.shape)} here"
            )
    if extra := weights.keys() - module.state_dict().keys():
        raise UserError(f"{path} is a checkpoint of another architecture: '{min(extra)}' has no place here")


def tensors_digest(tensors: Tensors) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors."""
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()


def _save(
    path: Path,
    kind: str,
    bundle: ModelBundle[Model],
    tensors: dict[str, torch.Tensor],
    packed: bool,
    fusion: dict[str, Any] | None = None,
) -> None:
    weights = _weights(path, bundle, packed)
    write_model_file(ModelFile(path, kind, bundle.config, bundle.tokenizer, weights | tensors, fusion))


def _weights(path: Path, bundle: ModelBundle[Model], packed: bool) -> dict[str, torch.Tensor]:
    """A model's tensors as in a file."""
    try:
        codes = pack_weights(bundle.model) if packed else {}
    except ValueError as error:
        raise UserError(f"cannot write {path}: {error}; train or quantize the model first") from error
    # Copies, as the format refuses tensors that share memory; a shared weight is written under each of its names.
    weights = {
        f"model.{name}": value.detach().cpu().clone()
        for name, value in bundle.model.state_dict().items()
        if name not in codes
    }
    return weights | {f"{PACKED}.{name}": value for name, value in codes.items()}


def _fused(file: ModelFile, fusion: dict[str, Any]) -> FusedModels:
    """The language models of a recognizer's file."""
    try:
        configs, weight_values = fusion["models"], fusion["weights"]
        if not isinstance(configs, dict) or not isinstance(weight_values, dict):
            raise ValueError("no models or no weights")
        weights = typed(weight_values, FusionConfig, str(file.path))
        needed = {role for role in ROLES if getattr(weights, f"{role}_weight")}
        if weights.source_lm:  # the transducer's own
            needed.discard("source")
        if set(configs) - set(ROLES) or needed - set(configs):
            raise ValueError(f"it names the language models {sorted(configs)} and has weights for {sorted(needed)}")
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{file.path} is damaged: its language models cannot be read ({error})") from error
    models = {}
    for role, values in configs.items():
        config = config_from_dict(values, f"{file.path}, {role} language model")
        part = ModelFile(file.path, LANGUAGE_MODEL, config, file.tokenizer, part_of(file.tensors, role))
        lm = language_model_of(_unpacked(part))
        if not isinstance(lm.model, LstmLanguageModel):
            raise UserError(
                f"{file.path} is damaged: its {role} language model is a transformer, which no search takes"
            )
        models[role] = lm
    return FusedModels(weights, models)


def _unpacked(file: ModelFile) -> ModelFile:
    """The file with the values of its packed weights."""
    packed = part_of(file.tensors, PACKED)
    if not packed:
        return file
    model = _on_meta(file, build_transducer if file.kind == RECOGNIZER else build_language_model)
    try:
        values = unpack_weights(model, packed, part_of(file.tensors, "model"))
    except ValueError as error:
        raise UserError(f"{file.path} is damaged: {error}; copy or export it again") from error
    others = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(f"{PACKED}.")}
    return replace(file, tensors=others | {f"model.{name}": value for name, value in values.items()})


def _load(file: ModelFile, build: Callable[[Config, int], Model]) -> Model:
    """Builds a model without data, including rewrites, and assigns the file's tensors without copying them."""
    weights = part_of(file.tensors, "model")
    model = _on_meta(file, build)
    require_same_weights(model, weights, file.path)
    shared = _shared_parameters(model)
    model.load_state_dict(weights, assign=True)
    for first, *others in shared:
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, model.get_parameter(first))
    return model.eval()


def _on_meta(file: ModelFile, build: Callable[[Config, int], Model]) -> Model:
    """The modules of a file, without memory for parameters; refuses a configuration with more layers than tensors."""
    settings = list(settings_of(file.config))
    known = {item.key: item.value for item in settings}
    part, most = "lm." if file.kind == LANGUAGE_MODEL else "model.", len(file.tensors)
    for item in settings:
        is_size = item.key.startswith(part) and item.key.endswith("num_layers")
        if is_size and item.value > most and is_read(item, known):
            raise UserError(f"{file.path} is damaged: {item.key} is {item.value}, but there are {most} tensors")
    try:
        with torch.device("meta"):
            return build(file.config, file.tokenizer.vocab_size)
    except (RuntimeError, ValueError, TypeError, IndexError, MemoryError, OverflowError, ZeroDivisionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{file.path} is damaged: no model can be built of its settings ({reason})") from error


def _shared_parameters(model: nn.Module) -> list[list[str]]:
    """Groups of names of the same parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        problem = f"no model file at {path}" if not path.exists() else f"{path} is not a regular file"
        raise UserError(f"{problem}; give the path of a .safetensors file that asrkit wrote")
    try:
        with safe_open(path, framework="pt") as file:
            header = cast(dict[str, str], file.metadata() or {})
            # Copies, as changes of an open file change its tensors or crash the process.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, KeyError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is not a readable .safetensors file ({reason}); it may be truncated") from error
    if "sha256" in header and header["sha256"] != tensors_digest(tensors):
        raise UserError(f"{path} is damaged: its tensors are not those that were written; copy or export it again")
    if "asrkit_format" in header and (unknown := header.keys() - KNOWN):
        raise UserError(f"{path} is damaged, or of a later version: its header says '{shown(min(unknown)[:40])}'")
    if DIGEST in header and header[DIGEST] != header_digest(header):
        raise UserError(f"{path} is damaged: its header is not the one that was written; copy or export it again")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path} is damaged: '{shown(name[:80])}' holds numbers that are not finite")
    header, tensors = upgrade(header, tensors)
    if header.get("asrkit_format") not in (FORMAT, FUSED_FORMAT):
        raise UserError(
            f"{path} is not an asrkit model of format {FUSED_FORMAT} or earlier; export it with this version"
        )
    return header, tensors
