"""ONNX export to the three files, with metadata, that sherpa-onnx and other k2 runtimes read.

The encoder file takes unnormalized Kaldi log-Mel features and contains the global normalization and the joiner's
encoder projection; the decoder file contains the predictor and its projection, the joiner file the rest.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from asrkit.bundle.model_file import ModelBundle
from asrkit.config import Config
from asrkit.errors import UserError
from asrkit.export.onnx_weights import quantize_file
from asrkit.export.post_training import REWRITE
from asrkit.features.normalization import GLOBAL
from asrkit.files import atomic_path, write_text
from asrkit.models.predictor import StatelessPredictor
from asrkit.models.transducer import Transducer

ENCODER, DECODER, JOINER, TOKENS = "encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"
OPSET = 17


class OnnxEncoder(nn.Module):
    """Features (B, T, F) and lengths (B,) to projected encoder output (B, T', J) and lengths (B,)."""

    def __init__(self, model: Transducer, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.encoder, self.proj = model.encoder, model.joiner.encoder_proj
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalizes, encodes and projects."""
        encoder_out, encoder_lens = self.encoder((x - self.mean) / self.std, x_lens)
        return self.proj(encoder_out), encoder_lens


class OnnxDecoder(nn.Module):
    """The last labels (N, context) to the projected predictor output (N, J)."""

    def __init__(self, model: Transducer, predictor: StatelessPredictor) -> None:
        super().__init__()
        self.predictor, self.proj = predictor, model.joiner.predictor_proj

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Runtimes fill the initial context with -1, which becomes blank."""
        y = y.clamp(min=0)
        out, _ = self.predictor.step(y[:, -1], (y[:, :-1],))
        result: torch.Tensor = self.proj(out)
        return result


class OnnxJoiner(nn.Module):
    """Projected encoder and predictor outputs (N, J) to logits (N, V)."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.joiner = model.joiner

    def forward(self, encoder_out: torch.Tensor, decoder_out: torch.Tensor) -> torch.Tensor:
        """The joiner after its projections."""
        return self.joiner.combine(encoder_out, decoder_out)


def export_onnx(
    bundle: ModelBundle[Transducer], folder: Path, begin: Callable[[], None] = lambda: None, bits: int = 32
) -> None:
    """Writes encoder.onnx, decoder.onnx, joiner.onnx and tokens.txt.

    Args:
        bundle: the recognizer.
        folder: where the files go.
        begin: called before the first is written.
        bits: of the weights of linear layers, 8 or 4 for a model rounded by
            :func:`asrkit.export.onnx_weights.round_weights`.

    Raises:
        UserError: the package onnx is missing, or the runtimes cannot serve the model: a predictor other than
            the stateless one, or features that the runtimes do not compute.
    """
    predictor = require_servable(bundle)
    model, features = bundle.model.eval().cpu(), bundle.config.features
    bins, width = features.num_mel_bins, model.joiner.joiner_dim
    begin()
    mean, std = torch.zeros(bins), torch.ones(bins)
    if features.normalization == "global":
        mean, std = bundle.statistics[GLOBAL].mean, bundle.statistics[GLOBAL].std
    _write(
        folder / ENCODER,
        OnnxEncoder(model, mean, std).eval(),
        (torch.zeros(2, 90, bins), torch.tensor([90, 80])),
        {"x": {0: "N", 1: "T"}, "x_lens": {0: "N"}},
        {"encoder_out": {0: "N", 1: "T_out"}, "encoder_out_lens": {0: "N"}},
        {
            "model_type": bundle.config.model.encoder.type,
            "version": "1",
            "model_author": "asrkit",
            "subsampling_factor": str(model.encoder.subsampling),
            "feature_dim": str(bins),
        },
    )
    _write(
        folder / DECODER,
        OnnxDecoder(model, predictor).eval(),
        (torch.zeros(2, predictor.context_size, dtype=torch.int64),),
        {"y": {0: "N"}},
        {"decoder_out": {0: "N"}},
        {"context_size": str(predictor.context_size), "vocab_size": str(model.vocab_size)},
    )
    _write(
        folder / JOINER,
        OnnxJoiner(model).eval(),
        (torch.zeros(2, width), torch.zeros(2, width)),
        {"encoder_out": {0: "N"}, "decoder_out": {0: "N"}},
        {"logit": {0: "N"}},
        {"joiner_dim": str(width)},
    )
    if bits < 32:
        for name in (ENCODER, DECODER, JOINER):
            quantize_file(folder / name, bits)
    symbols = (f"{bundle.tokenizer.symbol(n)} {n}\n" for n in range(bundle.tokenizer.vocab_size))
    write_text(folder / TOKENS, "".join(symbols).replace("<blank>", "<blk>", 1))


def obstacle(config: Config) -> str | None:
    """Why a model of this configuration cannot be exported, or None; needs no trained model.

    These runtimes keep an LSTM's state only for NeMo models, with NeMo's features.
    """
    features, model = config.features, config.model
    if REWRITE in config.rewrites:
        return "it takes float models; --onnx-bits rounds their weights"
    if model.predictor.type != "stateless":
        return "it needs model.predictor.type=stateless: the runtimes keep an LSTM's state for NeMo's features alone"
    if model.encoder.type != "conformer":
        return f"it takes conformers; this model's encoder is a {model.encoder.type}"
    if features.deltas or features.stacking > 1 or features.speaker_vector_dim:
        return "it takes plain log-Mel features: no deltas, stacking or speaker vectors"
    if features.normalization not in ("global", "none"):
        return "it needs features.normalization=global or none: the runtimes know no speakers"
    return None


def require_servable(bundle: ModelBundle[Transducer]) -> StatelessPredictor:
    """Refuses models that the runtimes cannot run; returns the predictor.

    Raises:
        UserError: see :func:`export_onnx`.
    """
    if importlib.util.find_spec("onnx") is None:
        raise UserError("ONNX export needs the package onnx: pip install 'asrkit[onnx]'")
    if reason := obstacle(bundle.config):
        raise UserError(f"cannot export for ONNX: {reason}")
    assert isinstance(bundle.model.predictor, StatelessPredictor)
    return bundle.model.predictor


def _write(
    path: Path,
    module: nn.Module,
    example: Sequence[torch.Tensor],
    inputs: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
    metadata: dict[str, str],
) -> None:
    import onnx

    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            # These runtimes support the graphs of the tracing exporter, which warns that it is deprecated.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                tuple(example),
                str(temporary),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=inputs | outputs,
                opset_version=OPSET,
                dynamo=False,
            )
        proto = onnx.load(str(temporary))
        for key, value in metadata.items():
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.save(proto, str(temporary))
