"""ONNX files with weights of 8 or 4 bits for ONNX Runtime, and thus sherpa-onnx.

The files round weights, not activations; ONNX Runtime rounds activations to 8 bits when it optimizes 8-bit products.
8-bit weights are ``DequantizeLinear`` of int8 with a scale per output (the weight half of QDQ); 4-bit weights are the
contributed operator ``MatMulNBits`` with a scale per 32 weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from asrkit.files import atomic_path

if TYPE_CHECKING:
    import onnx

BLOCK = 32
"""4-bit weights per scale."""
CONTRIBUTED = "com.microsoft"


def round_weights(model: nn.Module, bits: int) -> None:
    """Rounds the weights of a model's linear layers to the values in the files, so that it can be decoded with them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                weight = module.weight
                codes, scale = quantized(weight.numpy(), bits)
                values = codes * np.repeat(scale, codes.shape[1] // scale.shape[1], axis=1)
                weight.copy_(torch.from_numpy(values[:, : weight.shape[1]]))


def quantized(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N, K) to whole numbers around zero, (N, K padded to blocks), and a scale per block (N, blocks)."""
    rows, columns = weight.shape
    block = BLOCK if bits == 4 else columns
    padded = np.pad(weight, ((0, 0), (0, -columns % block))).reshape(rows, -1, block)
    largest = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(padded).max(axis=2), np.finfo(np.float32).tiny) / largest
    codes = np.round(padded / scale[..., None]).clip(-largest, largest)
    return codes.reshape(rows, -1).astype(np.float32), scale.astype(np.float32)


def quantize_file(path: Path, bits: int) -> None:
    """Replaces the weights of the products in an ONNX file with their codes.

    Args:
        path: a file of float32 weights rounded by :func:`round_weights`, so that codes are exact.
        bits: 8 or 4.
    """
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load(str(path))
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        name = node.input[1] if node.op_type in ("MatMul", "Gemm") else ""
        if name not in weights or len(weights[name].dims) != 2:
            nodes.append(node)
            continue
        transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        stored = numpy_helper.to_array(weights[name])
        by_output = stored if transposed else stored.T  # (N, K)
        codes, scale = quantized(by_output, bits)
        if name not in replaced:
            replaced.add(name)
            tensors = _int8_tensors(name, codes, scale, transposed) if bits == 8 else _int4_tensors(name, codes, scale)
            graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in tensors.items())
            if bits == 8:
                inputs = [f"{name}_codes", f"{name}_scale"]
                nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0 if transposed else 1))
        nodes.extend([node] if bits == 8 else _products(node, by_output.shape))
    del graph.node[:]
    graph.node.extend(nodes)
    for name in replaced:
        graph.initializer.remove(weights[name])
    if bits == 4 and not any(opset.domain == CONTRIBUTED for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))
    with atomic_path(path) as temporary:
        onnx.save(proto, str(temporary))


def _int8_tensors(name: str, codes: np.ndarray, scale: np.ndarray, transposed: bool) -> dict[str, np.ndarray]:
    int8_codes = codes.astype(np.int8)
    stored = int8_codes if transposed else np.ascontiguousarray(int8_codes.T)
    return {f"{name}_codes": stored, f"{name}_scale": scale[:, 0].copy()}


def _int4_tensors(name: str, codes: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
    rows, blocks = scale.shape
    shifted = (codes + 8).astype(np.uint8).reshape(rows, blocks, BLOCK // 2, 2)
    return {f"{name}_codes": shifted[..., 0] | (shifted[..., 1] << 4), f"{name}_scale": scale.flatten()}


def _products(node: onnx.NodeProto, shape: tuple[int, ...]) -> list[onnx.NodeProto]:
    """A product with 4-bit weights that replaces MatMul, or, with an addition, Gemm."""
    from onnx import helper

    name, (rows, columns) = node.input[1], shape
    biased = node.op_type == "Gemm" and len(node.input) > 2
    out = f"{node.output[0]}_product" if biased else node.output[0]
    product = helper.make_node(
        "MatMulNBits",
        [node.input[0], f"{name}_codes", f"{name}_scale"],
        [out],
        domain=CONTRIBUTED,
        K=columns,
        N=rows,
        bits=4,
        block_size=BLOCK,
    )
    return [product, helper.make_node("Add", [out, node.input[2]], [node.output[0]])] if biased else [product]
