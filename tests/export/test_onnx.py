from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lhotse import CutSet

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle, save_recognizer
from asrkit.config_files import config_from_dict
from asrkit.errors import UserError
from asrkit.export.onnx import DECODER, ENCODER, JOINER, TOKENS, export_onnx, obstacle
from asrkit.export.onnx_weights import round_weights
from asrkit.export.recognizer import Recognizer
from asrkit.features.normalization import GLOBAL
from tests.conftest import TINY, tiny_bundle

onnxruntime = pytest.importorskip("onnxruntime")
sherpa_onnx = pytest.importorskip("sherpa_onnx")


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    """A stateless model that has something to say."""
    settings = TINY["model"] | {"predictor": {"type": "stateless", "embedding_dim": 8}}
    config = config_from_dict(TINY | {"model": settings}, "tests")
    made = tiny_bundle()
    torch.manual_seed(2)
    model = build_transducer(config, made.tokenizer.vocab_size).eval()
    with torch.no_grad():
        model.joiner.out.weight.mul_(6)
        model.joiner.out.bias[0] += 6.0
    return ModelBundle(model, config, made.tokenizer, made.statistics)


@pytest.fixture(scope="module")
def folder(bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx")
    export_onnx(bundle, path)
    return path


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path))


def test_the_three_files_compute_what_the_model_does(bundle: ModelBundle, folder: Path) -> None:
    model = bundle.model
    x, lens = torch.randn(3, 77, 16) - 5, torch.tensor([77, 40, 9])  # of other shapes than the export's example
    out, out_lens = session(folder / ENCODER).run(None, {"x": x.numpy(), "x_lens": lens.numpy()})
    encoder_out, encoder_lens = model.encoder(bundle.statistics[GLOBAL].apply(x), lens)
    assert out_lens.tolist() == encoder_lens.tolist()
    assert torch.allclose(torch.from_numpy(out), model.joiner.encoder_proj(encoder_out), atol=1e-4)
    decoder = session(folder / DECODER)
    contexts = torch.tensor([[-1, 0], [0, 3], [3, 5]])  # the first is what runtimes begin with
    predicted = decoder.run(None, {"y": contexts.numpy()})[0]
    history = model.predictor(torch.tensor([[3, 5]]))[0]
    assert torch.allclose(torch.from_numpy(predicted), model.joiner.predictor_proj(history), atol=1e-5)
    joint = session(folder / JOINER).run(None, {"encoder_out": out[:, 0], "decoder_out": predicted})[0]
    assert joint.shape == (3, bundle.tokenizer.vocab_size)


def test_sherpa_onnx_decodes_an4_as_we_do(bundle: ModelBundle, folder: Path, an4_cuts: CutSet, tmp_path: Path) -> None:
    save_recognizer(tmp_path / "model.safetensors", bundle)
    recognizer = Recognizer(tmp_path / "model.safetensors", "modified_beam", beam=4)
    theirs = sherpa_onnx.OfflineRecognizer.from_transducer(
        *(str(folder / name) for name in (ENCODER, DECODER, JOINER, TOKENS)),
        feature_dim=16,
        num_threads=1,
        decoding_method="modified_beam_search",
        max_active_paths=4,
    )
    same = 0
    for cut in list(an4_cuts)[:20]:
        samples = torch.from_numpy(cut.load_audio()[0])
        stream = theirs.create_stream()
        stream.accept_waveform(16000, samples.numpy())
        theirs.decode_stream(stream)
        ours = [bundle.tokenizer.symbol(token) for token in recognizer.recognize(samples).tokens]
        assert ours
        same += ours == [token.replace(" ", "▁") for token in stream.result.tokens]
    assert same >= 19  # a tie may fall differently


def test_what_the_runtimes_cannot_serve_is_one_line(bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stateless"):
        export_onnx(tiny_bundle(), tmp_path)
    with_deltas = replace(bundle.config.features, deltas=True)
    config = replace(bundle.config, features=with_deltas)
    with pytest.raises(UserError, match="plain log-Mel"):
        export_onnx(replace(bundle, config=config), tmp_path)
    assert not list(tmp_path.iterdir())
    assert obstacle(bundle.config) is None and obstacle(config) is not None


@pytest.mark.parametrize(("bits", "smaller"), [(8, 2.0), (4, 2.5)])
def test_fewer_bits_compute_what_the_rounded_model_does(
    bundle: ModelBundle, folder: Path, tmp_path: Path, bits: int, smaller: float
) -> None:
    rounded = replace(bundle, model=copy.deepcopy(bundle.model))
    round_weights(rounded.model, bits)
    export_onnx(rounded, tmp_path, bits=bits)
    x, lens = torch.randn(2, 60, 16) - 5, torch.tensor([60, 40])
    as_written = onnxruntime.SessionOptions()  # optimized, it rounds activations too
    as_written.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    out, _ = onnxruntime.InferenceSession(str(tmp_path / ENCODER), as_written).run(
        None, {"x": x.numpy(), "x_lens": lens.numpy()}
    )
    encoder_out, _ = rounded.model.encoder(rounded.statistics[GLOBAL].apply(x), lens)
    expected = rounded.model.joiner.encoder_proj(encoder_out)
    assert torch.allclose(torch.from_numpy(out), expected, atol=1e-4)
    assert not torch.allclose(bundle.model.joiner.encoder_proj(encoder_out), expected, atol=1e-4)
    predicted = session(tmp_path / DECODER).run(None, {"y": torch.tensor([[3, 5]]).numpy()})[0]
    history = rounded.model.predictor(torch.tensor([[3, 5]]))[0, -1:]
    assert torch.allclose(torch.from_numpy(predicted), rounded.model.joiner.predictor_proj(history), atol=1e-5)
    joint = session(tmp_path / JOINER).run(None, {"encoder_out": out[:, 0], "decoder_out": predicted.repeat(2, 0)})[0]
    assert joint.shape == (2, bundle.tokenizer.vocab_size)
    wide, narrow = (_initializer_bytes(path / ENCODER) for path in (folder, tmp_path))
    assert wide > smaller * narrow


def test_quantized_models_are_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    quantized = replace(bundle, config=replace(bundle.config, rewrites=["quantize"]))
    with pytest.raises(UserError, match="it takes float models"):
        export_onnx(quantized, tmp_path)


def _initializer_bytes(path: Path) -> int:
    import onnx

    return sum(len(tensor.raw_data) for tensor in onnx.load(str(path)).graph.initializer)
