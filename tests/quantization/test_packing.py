"""Packed codes, and models that are read from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle, load_recognizer, save_recognizer, tensors_digest
from asrkit.errors import UserError
from asrkit.quantization.packing import pack, quantized_weights, unpack, unpack_weights
from asrkit.quantization.qat import calibrate
from tests.conftest import tiny_bundle
from tests.quantization.test_qat import tiny


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 8, 1001])
def test_codes_come_back(bits: int, number: int) -> None:
    codes = torch.randint(0, 2**bits, (number,), generator=torch.Generator().manual_seed(0))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == math.ceil(number * (4 if bits == 3 else bits) / 8)
    assert torch.equal(unpack(packed, bits, number).long(), codes)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([1, 15, 7]), 4).tolist() == [0xF1, 0x07]
    assert pack(torch.tensor([3, 0, 1, 2]), 2).tolist() == [0b10_01_00_11]
    with pytest.raises(ValueError, match="3 codes of 4 bits take 2 bytes"):
        unpack(torch.zeros(3, dtype=torch.uint8), 4, 3)


def saved(folder: Path, encoder: dict[str, Any], bits: int, packed: bool) -> Path:
    config, tokenizer = tiny(encoder), tiny_bundle().tokenizer
    weights = config.quantization.layers["all"].weights
    weights.bits, weights.zero_aligned, weights.type = bits, bits != 3, "max" if bits == 8 else "sawb_plus"
    torch.manual_seed(0)
    model = build_transducer(config, tokenizer.vocab_size)
    with calibrate(model):
        encoder_out = model.encoder(torch.randn(2, 40, 16), torch.tensor([40, 24]))[0]
        model.joiner(encoder_out, model.predictor(torch.tensor([[1, 2], [3, 1]])))
    path = folder / f"{'packed' if packed else 'plain'}.safetensors"
    save_recognizer(path, ModelBundle(model.eval(), config, tokenizer), packed=packed)
    return path


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize(
    "encoder",
    [
        {"type": "conformer"},
        {"type": "dssformer", "dss": {"state_dim": 4, "local_kernel": 3}},
        {"type": "blstm", "blstm": {"num_layers": 2, "cells": 5}},
    ],
)
def test_a_packed_model_computes_the_same_bits(encoder: dict[str, Any], bits: int, tmp_path: Path) -> None:
    plain, packed = (saved(tmp_path, encoder, bits, kept) for kept in (False, True))
    a, b = load_recognizer(plain).model, load_recognizer(packed).model
    x, lens, y = torch.randn(2, 40, 16), torch.tensor([40, 24]), torch.tensor([[1, 2], [3, 1]])
    with torch.no_grad():
        for one, other in zip(a.encoder(x, lens), b.encoder(x, lens), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(a.predictor(y), b.predictor(y))
        out = a.encoder(x, lens)[0]
        assert torch.equal(a.joiner(out, a.predictor(y)), b.joiner(out, b.predictor(y)))
    before, after = load_file(plain), load_file(packed)
    number = sum(a.get_parameter(name).numel() for name, _, _ in quantized_weights(a))
    saved_bytes = sum(t.nbytes for t in before.values()) - sum(t.nbytes for t in after.values())
    expected = number * (4 - (4 if bits == 3 else bits) / 8)
    assert abs(saved_bytes - expected) < len(after)
    # Packed again, it is the same file.
    again = load_recognizer(packed)
    save_recognizer(tmp_path / "again.safetensors", again, packed=True)
    for name, tensor in load_file(tmp_path / "again.safetensors").items():
        assert torch.equal(tensor, after[name]), name


def test_damage_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"type": "conformer"}, 4, packed=True)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_recognizer(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="may be truncated"):
        load_recognizer(path)


def test_codes_that_fit_no_weight_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"type": "conformer"}, 4, packed=True)
    model = load_recognizer(path).model
    tensors = load_file(path)
    name = "joiner.encoder_proj.weight"
    codes, others = tensors[f"packed.{name}"], {k.removeprefix("model."): t for k, t in tensors.items()}
    unpack_weights(model, {name: codes}, others)
    for packed, known, message in (
        ({"joiner.encoder_proj.bias": codes}, others, "does not quantize it"),
        ({name: codes[1:]}, others, "codes of 4 bits take"),
        ({name: torch.full_like(codes, 255)}, others, "beyond its 15 levels"),
        ({name: codes}, {}, "has no bound"),
    ):
        with pytest.raises(ValueError, match=message):
            unpack_weights(model, packed, known)
    # A whole file whose digest is right but whose configuration does not fit.
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors[f"packed.{name}"] = codes[1:].clone()
    header = {name: value for name, value in header.items() if name != "sha256_header"}
    save_file(tensors, path, header | {"sha256": tensors_digest(tensors)})
    with pytest.raises(UserError, match=r"is damaged: .* codes of 4 bits take"):
        load_recognizer(path)


def test_a_model_that_nothing_has_passed_is_not_packed(tmp_path: Path) -> None:
    config, tokenizer = tiny({"type": "conformer"}), tiny_bundle().tokenizer
    bundle = ModelBundle(build_transducer(config, tokenizer.vocab_size), config, tokenizer)
    with pytest.raises(UserError, match="has no bounds: nothing has passed it yet"):
        save_recognizer(tmp_path / "m.safetensors", bundle, packed=True)
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(UserError, match="is not finite"):
        save_recognizer(tmp_path / "m.safetensors", bundle, packed=True)
    assert not (tmp_path / "m.safetensors").exists()
