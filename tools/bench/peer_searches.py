"""Beam searches of other toolkits over the weights of an asrkit transducer with a stateless predictor.

Each function here returns a search: from an utterance's (or batch's) encoder output to label sequences. Encoder and
predictor projections are asrkit's; what differs is the search. Needs the environment of tools/bench/peers.sh.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from asrkit.bundle.model_file import ModelBundle
from asrkit.export.onnx import DECODER, ENCODER, JOINER, TOKENS, export_onnx
from asrkit.models.predictor import StatelessPredictor
from asrkit.models.transducer import Transducer

Search = Callable[[list[torch.Tensor]], list[list[int]]]
"""Encoder outputs, (T', D) each, to label sequences."""


def torchaudio_search(model: Transducer, beam: int) -> Search:
    """``torchaudio.models.RNNTBeamSearch``, which takes the last symbol as blank."""
    from torchaudio.models import RNNTBeamSearch

    class Model:
        """What RNNTBeamSearch calls, with asrkit's symbols rotated by one."""

        def transcribe(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return model.joiner.encoder_proj(x), x_lens

        def predict(self, tokens: torch.Tensor, lens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any, Any]:
            tokens = (tokens[:, 0] + 1) % model.vocab_size
            before = model.predictor.initial_state(len(tokens)) if state is None else tuple(s[0] for s in state)
            out, after = model.predictor.step(tokens, before)
            return model.joiner.predictor_proj(out)[:, None], lens, [[part] for part in after]

        def join(self, x: torch.Tensor, x_lens: Any, y: torch.Tensor, y_lens: Any) -> tuple[torch.Tensor, Any, Any]:
            logits = model.joiner.combine(x[:, :, None], y[:, None])
            return logits.roll(-1, dims=-1), x_lens, y_lens

    search = RNNTBeamSearch(Model(), blank=model.vocab_size - 1, step_max_tokens=5)

    def run(encoded: list[torch.Tensor]) -> list[list[int]]:
        return [[k + 1 for k in search(x, torch.tensor(len(x)), beam)[0][0][1:]] for x in encoded]

    return run


def speechbrain_search(model: Transducer, beam: int) -> Search:
    """``speechbrain.decoders.TransducerBeamSearcher`` with its documented thresholds."""
    from speechbrain.decoders.transducer import TransducerBeamSearcher

    class GRU(nn.Module):
        """The predictor; SpeechBrain knows by this name that it has a state."""

        def forward(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            out, after = model.predictor.step(tokens[:, 0].long(), state or model.predictor.initial_state(1))
            return model.joiner.predictor_proj(out)[:, None], after

    class Sum(nn.Module):
        """The joiner up to its output layer, (1, 1, 1, J)."""

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x + y)

    search = TransducerBeamSearcher(
        [GRU()], Sum(), [model.joiner.out], blank_id=0, beam_size=beam, nbest=1, state_beam=2.3, expand_beam=2.3
    )

    def run(encoded: list[torch.Tensor]) -> list[list[int]]:
        return [search(model.joiner.encoder_proj(x)[None])[0][0] for x in encoded]

    return run


class EspnetDecoder:
    """The predictor as ESPnet's searches call it, with the cache that ESPnet's own decoders have."""

    def __init__(self, model: Transducer) -> None:
        self.model = model
        self.odim, self.dunits, self.blank_id = model.vocab_size, model.joiner.joiner_dim, 0
        self.device = torch.device("cpu")

    def set_device(self, device: torch.device) -> None:
        """On the CPU here."""

    def init_state(self, batch: int) -> torch.Tensor:
        """Last labels (N, context - 1)."""
        return self.model.predictor.initial_state(batch)[0]

    def select_state(self, states: torch.Tensor, index: int) -> torch.Tensor:
        """One row."""
        return states[index : index + 1]

    def create_batch_states(self, states: Any, new: Sequence[torch.Tensor], check: Any = None) -> torch.Tensor:
        """Rows stacked."""
        return torch.cat(list(new))

    def batch_score(
        self, hyps: Sequence[Any], states: Any, cache: dict[tuple[int, ...], Any], use_lm: bool
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Outputs and states of hypotheses, evaluated together where the cache has none."""
        new = [hyp for hyp in hyps if tuple(hyp.yseq) not in cache]
        if new:
            tokens = torch.tensor([hyp.yseq[-1] for hyp in new])
            out, (after,) = self.model.predictor.step(tokens, (torch.cat([hyp.dec_state for hyp in new]),))
            for n, (hyp, row) in enumerate(zip(new, self.model.joiner.predictor_proj(out), strict=True)):
                cache[tuple(hyp.yseq)] = row, after[n : n + 1]
        found = [cache[tuple(hyp.yseq)] for hyp in hyps]
        return torch.stack([row for row, _ in found]), torch.cat([state for _, state in found]), None


def espnet_search(model: Transducer, kind: str, beam: int) -> Search:
    """``BeamSearchTransducer`` of ESPnet: ``alsd`` or ``maes``; the most probable result, as ours."""
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer

    search = BeamSearchTransducer(
        EspnetDecoder(model),
        model.joiner.combine,
        beam,
        search_type=kind,
        u_max=1000,
        nstep=2,
        expansion_beta=2,
        expansion_gamma=2.3,
        score_norm=False,
        nbest=1,
    )

    def run(encoded: list[torch.Tensor]) -> list[list[int]]:
        return [list(search(model.joiner.encoder_proj(x))[0].yseq[1:]) for x in encoded]

    return run


class SherpaSearch:
    """sherpa-onnx' modified beam search alone: its encoder is an ONNX graph that returns a stored batch."""

    def __init__(self, bundle: ModelBundle[Transducer], beam: int, threads: int) -> None:
        self.bundle, self.beam, self.threads = bundle, beam, threads
        self.folder = tempfile.TemporaryDirectory()
        export_onnx(bundle, Path(self.folder.name))

    def prepare(self, encoded: list[torch.Tensor]) -> Callable[[], list[list[int]]]:
        """The search of one batch; what is not search (loading, audio, features) is done here."""
        import sherpa_onnx

        folder = Path(self.folder.name)
        with torch.no_grad():
            rows = [self.bundle.model.joiner.encoder_proj(x) for x in encoded]
        proj = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        write_stored_encoder(folder / "stored.onnx", proj, torch.tensor([len(x) for x in encoded]), folder / ENCODER)
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            str(folder / "stored.onnx"),
            str(folder / DECODER),
            str(folder / JOINER),
            str(folder / TOKENS),
            num_threads=self.threads,
            decoding_method="modified_beam_search",
            max_active_paths=self.beam,
            feature_dim=self.bundle.config.features.num_mel_bins,
        )
        index = {self.bundle.tokenizer.symbol(n): n for n in range(self.bundle.tokenizer.vocab_size)}
        index |= {symbol.replace("▁", " "): n for symbol, n in index.items()}

        def run() -> list[list[int]]:
            streams = [recognizer.create_stream() for _ in encoded]
            for stream in streams:
                stream.accept_waveform(16000, [0.0] * 400)
            recognizer.decode_streams(streams)
            return [[index[token] for token in stream.result.tokens] for stream in streams]

        return run


def write_stored_encoder(path: Path, encoder_out: torch.Tensor, lens: torch.Tensor, like: Path) -> None:
    """An encoder that returns ``encoder_out`` (B, T', J) and ``lens`` (B,) whatever it is given."""
    stored = [
        numpy_helper.from_array(encoder_out.detach().numpy(), "stored"),
        numpy_helper.from_array(lens.numpy(), "stored_lens"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["stored"], ["encoder_out"]),
            helper.make_node("Identity", ["stored_lens"], ["encoder_out_lens"]),
        ],
        "stored",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", "F"]),
            helper.make_tensor_value_info("x_lens", TensorProto.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("encoder_out", TensorProto.FLOAT, list(encoder_out.shape)),
            helper.make_tensor_value_info("encoder_out_lens", TensorProto.INT64, list(lens.shape)),
        ],
        stored,
    )
    original = onnx.load(str(like))
    model = helper.make_model(graph, opset_imports=original.opset_import, ir_version=original.ir_version)
    model.metadata_props.extend(original.metadata_props)
    onnx.save(model, str(path))


def usable(model: Transducer) -> bool:
    """Whether the peers can run the model: a stateless predictor and an additive joiner."""
    return isinstance(model.predictor, StatelessPredictor) and model.joiner.combination == "add"
