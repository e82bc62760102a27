"""Matrix products of other libraries on random weights: torch's and ONNX Runtime's, of 32, 8 and 4 bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

Run = Callable[[], object]
BLOCK = 128
"""Weights with one scale, of ONNX Runtime's 4-bit product."""


def torch_products(x: torch.Tensor, weight: torch.Tensor) -> dict[str, list[Run]]:
    """Float (M, K) by (N, K): float32, and torch's ways of int8 with inputs quantized as they come."""
    plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    plain.weight = torch.nn.Parameter(weight)
    runs: dict[str, list[Run]] = {"torch_fp32": [lambda: torch.nn.functional.linear(x, weight)], "torch_int8": []}
    for engine in ("x86", "onednn", "fbgemm"):
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            quantized = torch.ao.quantization.quantize_dynamic(
                torch.nn.Sequential(plain), {torch.nn.Linear}, dtype=torch.qint8
            )
            runs["torch_int8"].append(partial(quantized, x))
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_vnni_supported():  # else a nested loop
        codes = (weight / weight.abs().max() * 127).to(torch.int8)

        def by_int_mm() -> torch.Tensor:
            scale = x.abs().max() / 127
            return torch._int_mm((x / scale).round().to(torch.int8), codes.t()).float() * scale

        runs["torch_int8"].append(by_int_mm)
    return runs


def ort_products(x: torch.Tensor, weight: torch.Tensor, threads: int) -> dict[str, list[Run]]:
    """The same by ONNX Runtime: float32, int8 with dynamic quantization, and 4-bit weights with either accuracy."""
    values, (rows, columns) = weight.numpy(), weight.shape
    codes = np.clip(np.round(values / np.abs(values).max() * 7), -7, 7).astype(np.int8)
    scale = np.full(rows, np.abs(values).max() / 7, np.float32)
    runs: dict[str, list[Run]] = {}

    def add(name: str, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> None:
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", columns])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", rows])],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 8
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given = {"x": x.numpy()}
        runs.setdefault(name, []).append(lambda: session.run(None, given))

    add("ort_fp32", [helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.ascontiguousarray(values.T))
    quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])
    inputs = ["xq", "w", "xs", "ws", "xz", "wz"]
    product = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain="com.microsoft")
    for kind, offset in ((np.int8, 0), (np.uint8, 8)):
        shifted = np.ascontiguousarray((codes.T.astype(np.int16) + offset).astype(kind))
        add("ort_int8", [quantize, product], w=shifted, ws=scale, wz=np.full(rows, offset, kind))
    if columns % BLOCK == 0:
        halves = (codes.astype(np.int16) + 8).astype(np.uint8).reshape(rows, columns // BLOCK, BLOCK // 2, 2)
        packed = halves[..., 0] | (halves[..., 1] << 4)
        scales = np.repeat(scale, columns // BLOCK)
        for accuracy in (0, 4):
            node = helper.make_node(
                "MatMulNBits",
                ["x", "w", "s"],
                ["y"],
                domain="com.microsoft",
                K=columns,
                N=rows,
                bits=4,
                block_size=BLOCK,
                accuracy_level=accuracy,
            )
            add("ort_int4", [node], w=packed, s=scales)
    return runs
