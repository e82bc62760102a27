"""Integer inference of the models that :mod:`asrkit.quantization.qat` trains in floating point.

A value is step · (code - zero point), so that products of quantized values are products of codes, summed without
rounding, and scales are applied once to each sum (Fasoli et al. 2021, arXiv 2108.12074, section 2). Weights are codes,
two per byte for 4 bits; activations are quantized on the fly. Results equal the trained model's up to the
rounding of the remaining floats. :func:`use_integers` replaces a model's quantized layers for evaluation on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from asrkit.models.language_model import LstmLanguageModel
from asrkit.models.lstm import LstmLayer, LstmState, WeightDropout, lstm_cells
from asrkit.quantization import kernels
from asrkit.quantization.kernels import GROUP, PANEL, ProductStruct, QuantizerStruct, pointer
from asrkit.quantization.qat import QuantizedDepthwiseConv, QuantizedLinear, QuantizedLstmLayer
from asrkit.quantization.quantizers import Quantizer, code_line

EXACT = 1 << 24
"""Integers up to this are exact in float32."""


@dataclass(frozen=True)
class Grid:
    """The values of a quantizer as integers: value = step · (factor · (code - half) + zero)."""

    step: torch.Tensor
    """(G,) per group; half the quantizer's step if zero is between two codes."""
    factor: int
    """1, or 2 if zero is between two codes."""
    zero: int
    half: int
    """Subtracted from an activation's code, so that it is signed; 0 for weights."""

    @classmethod
    def of(cls, quantizer: Quantizer, signed: bool) -> Grid | None:
        """The grid of a quantizer; None if its zero point is neither a code nor halfway between two."""
        step, zero = quantizer.scales()
        used = step > 0
        twice = 2 * zero[used]
        if len(twice) and ((twice - twice.round()).abs() > 1e-3).any():
            return None
        points = twice.round().long().unique().tolist()
        if len(points) > 1:
            return None
        point, half = points[0] if points else 0, 1 << (_width(quantizer.bits) - 1) if signed else 0
        factor = 2 if point % 2 else 1
        return cls(step.float() / factor, factor, factor * half - point * factor // 2, half)


def _width(bits: int) -> int:
    """Bits of a code in products: fewer than 4 bits are multiplied as 4."""
    return 8 if bits == 8 else 4


class IntegerProduct:
    """x to W q(x) + b, computed with codes.

    Args:
        codes: (N, K) of the weight, uint8.
        weights: the grid of the weight; its groups are equal parts of N.
        inputs: the quantizer of x.
        bias: (N,), if any.
        bits: of a weight's code.

    Raises:
        ValueError: the quantizer of x has no integer grid.
    """

    def __init__(
        self, codes: torch.Tensor, weights: Grid, inputs: Quantizer, bias: torch.Tensor | None, bits: int
    ) -> None:
        grid = Grid.of(inputs, signed=True)
        if grid is None:
            raise ValueError("zero is not among the values of the inputs")
        self.inputs, self.grid = inputs, grid
        self.rows, self.columns = codes.shape
        self.bits = max(_width(bits), _width(inputs.bits))
        # value = step · (a · code + b) of a weight, step · (c · code + d) of an input.
        a, b, c, d = weights.factor, weights.zero, grid.factor, grid.zero
        self.p, self.r = a * c, b * c
        self.shift = (a * d * codes.long().sum(1) + self.columns * b * d).int()
        step = weights.step[:, None].expand(-1, self.rows // len(weights.step)).flatten()
        self.scale = (step * grid.step).contiguous()
        self.bias = None if bias is None else bias.detach().float().contiguous()
        self.path = kernels.chosen()
        self.quantizer = _quantizer_struct(inputs, grid.half)
        if self.path is None:
            self.plain = torch_products()(codes, self.bits)
            return
        self.padded = -(-self.columns // GROUP) * GROUP
        self.packed = _panels(codes, self.padded, self.bits)
        self.struct = ProductStruct(
            w=pointer(self.packed),
            scale=pointer(self.scale),
            shift=pointer(self.shift),
            bias=pointer(self.bias),
            n=self.rows,
            k=self.padded,
            ld=self.rows,
            p=self.p,
            r=self.r,
            bits=self.bits,
        )

    def __call__(self, x: torch.Tensor, add_to: torch.Tensor | None = None) -> torch.Tensor:
        """(M, K) float to (M, N) float32. The product is added to ``add_to`` (M, N) in place, if given."""
        if x.device.type != "cpu" or x.shape[1] != self.columns:
            raise ValueError(f"a product of {self.columns} codes on the CPU got {tuple(x.shape)} on {x.device.type}")
        x = x.float().contiguous()
        if self.path is None:
            return self._by_torch(x, add_to)
        out = torch.empty(len(x), self.rows) if add_to is None else add_to
        codes, sums = kernels.make_codes(self.path, self.quantizer, x, self.padded)
        product = ProductStruct.from_buffer_copy(self.struct)  # a model may be used by several threads
        product.x, product.sums, product.out = pointer(codes), pointer(sums), pointer(out)
        product.m, product.add = len(x), int(add_to is not None)
        kernels.run_product(self.path, product)
        return out

    def _by_torch(self, x: torch.Tensor, add_to: torch.Tensor | None) -> torch.Tensor:
        codes = self.inputs.codes(x) - self.grid.half
        sums = self.p * self.plain(codes) + (self.r * codes.sum(1))[:, None] + self.shift
        out = sums.float() * self.scale
        if self.bias is not None:
            out += self.bias
        out[x.isnan().any(dim=1)] = torch.nan
        return out if add_to is None else add_to.add_(out)


def _quantizer_struct(quantizer: Quantizer, half: int) -> QuantizerStruct:
    """The parameters of a quantizer for the C code."""
    low, high = quantizer.low.detach().float(), quantizer.high.detach().float()
    start, factor = code_line(low, high, quantizer.levels, quantizer.zero_aligned)
    return QuantizerStruct(low=float(start), factor=float(factor), top=float(quantizer.levels - 1), half=half)


def _panels(codes: torch.Tensor, padded: int, bits: int) -> torch.Tensor:
    """Codes (N, K) in the order of ``w4a4.c``."""
    rows, columns = codes.shape
    padded_codes = F.pad(codes, (0, padded - columns, 0, -rows % PANEL))
    if bits == 8:
        return padded_codes.view(-1, PANEL, padded // 4, 4).permute(0, 2, 1, 3).contiguous()
    halves = padded_codes.view(-1, PANEL, padded // 8, 2, 4).permute(0, 2, 3, 1, 4)
    return (halves[:, :, 0] | (halves[:, :, 1] << 4)).contiguous()


class FloatProducts:
    """Exact products of codes in float32, with sums below 2^24."""

    def __init__(self, codes: torch.Tensor, bits: int) -> None:
        largest = (2**bits - 1) * 2 ** (bits - 1)
        self.parts = codes.float().split(max(1, EXACT // largest), dim=1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(M, K) int64 to (M, N) int64."""
        sizes = [part.shape[1] for part in self.parts]
        parts = zip(x.float().split(sizes, dim=1), self.parts, strict=True)
        return torch.stack([F.linear(part, weight).long() for part, weight in parts]).sum(0)


class Int8Products:
    """Products of codes in int8, which torch sums in int32; fast with VNNI, slow without."""

    def __init__(self, codes: torch.Tensor, bits: int) -> None:
        self.half = 2 ** (bits - 1)
        signed = F.pad(codes.short() - self.half, (0, -codes.shape[1] % GROUP, 0, -codes.shape[0] % GROUP))
        self.rows, self.weight = codes.shape[0], signed.to(torch.int8).contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(M, K) int64 to (M, N) int64."""
        padded = F.pad(x, (0, self.weight.shape[1] - x.shape[1]))
        sums = torch._int_mm(padded.to(torch.int8), self.weight.t())[:, : self.rows]
        result: torch.Tensor = sums.long() + (self.half * x.sum(1))[:, None]
        return result


TorchProducts = type[FloatProducts] | type[Int8Products]


@lru_cache(maxsize=1)
def torch_products() -> TorchProducts:
    """The faster torch implementation on this machine, measured once."""
    codes = torch.randint(0, 16, (512, 512), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = codes[:16].long() - 8
    in_float, in_int8 = (_seconds(kind(codes, 4), x) for kind in (FloatProducts, Int8Products))
    return FloatProducts if in_float < in_int8 else Int8Products


def _seconds(product: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    times = []
    for _ in range(4):
        started = time.perf_counter()
        product(x)
        times.append(time.perf_counter() - started)
    return min(times)


class IntegerLinear(nn.Module):
    """A linear map computed with codes."""

    def __init__(self, product: IntegerProduct) -> None:
        super().__init__()
        self.product = product
        self.in_features, self.out_features = product.columns, product.rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        return self.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)


class IntegerDepthwiseConv(nn.Module):
    """A depthwise convolution computed with codes; a channel's few products are exact in float32."""

    def __init__(self, plain: QuantizedDepthwiseConv, weights: Grid, inputs: Grid) -> None:
        super().__init__()
        quantizer, input_quantizer = plain.weight_quantizer, plain.input_quantizer
        assert isinstance(quantizer, Quantizer) and isinstance(input_quantizer, Quantizer)
        self.inputs, self.grid = input_quantizer, inputs
        conv = plain.conv
        self.padding, self.groups = conv.padding, conv.groups
        codes = quantizer.codes(conv.weight.detach())
        self.weight = (weights.factor * codes + weights.zero).float()
        step = weights.step[:, None].expand(-1, self.groups // len(weights.step)).flatten()
        self.scale = (step * inputs.step)[:, None, None]
        self.bias = None if conv.bias is None else conv.bias.detach()[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, T, C)."""
        codes = self.grid.factor * (self.inputs.codes(x) - self.grid.half) + self.grid.zero
        integers = codes.float().transpose(1, 2).unsqueeze(-1).contiguous(memory_format=torch.channels_last)
        out = F.conv2d(integers, self.weight, padding=self.padding, groups=self.groups) * self.scale
        if self.bias is not None:
            out = out + self.bias
        return out.squeeze(-1).transpose(1, 2)


class IntegerLstmLayer(LstmLayer):
    """An LSTM layer computed with codes; the cell state and the gates are floats.

    Args:
        inputs: the products of consecutive parts of the input; the last one has the biases.
        hidden: the product of the hidden state.
    """

    def __init__(self, inputs: Sequence[IntegerProduct], hidden: IntegerProduct) -> None:
        nn.Module.__init__(self)  # without LstmLayer's weights
        self.inputs, self.hidden = list(inputs), hidden
        self.input_dim, self.hidden_dim = sum(part.columns for part in inputs), hidden.columns

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> IntegerLstmLayer:
        """Codes are not moved."""
        return self

    def initial_state(self, number: int) -> LstmState:
        """Before any input: (number, H) zeros each."""
        return torch.zeros(number, self.hidden_dim), torch.zeros(number, self.hidden_dim)

    @torch.no_grad()
    def run(
        self, x: torch.Tensor, state: LstmState | None = None, drop: WeightDropout | None = None
    ) -> tuple[torch.Tensor, LstmState]:
        """The layer over a sequence, see :meth:`LstmLayer.run`; ``drop`` must be None."""
        assert drop is None
        times, number = x.shape[:2]
        h, c = self.initial_state(number) if state is None else state
        if not times:
            return x.new_zeros(0, number, self.hidden_dim), (h, c)
        parts = x.reshape(times * number, self.input_dim).split([part.columns for part in self.inputs], dim=1)
        gates: torch.Tensor | None = None
        for product, part in zip(self.inputs, parts, strict=True):
            gates = product(part, gates)
        assert gates is not None
        h, c = h.float().contiguous(), c.float().clone(memory_format=torch.contiguous_format)
        gates = gates.view(times, number, 4 * self.hidden_dim)
        path = self.hidden.path
        if path is not None:
            out = kernels.run_lstm(path, self.hidden.struct, self.hidden.quantizer, gates, h, c)
            return out, (out[-1], c)
        steps = []
        for step_gates in gates:
            h, c = cells(self.hidden(h, step_gates), c)
            steps.append(h)
        return torch.stack(steps), (h, c)


def cells(gates: torch.Tensor, c: torch.Tensor) -> LstmState:
    """Gates (B, 4 H) and cell states (B, H) to the next state; both may be overwritten."""
    path = kernels.chosen()
    if path is not None:
        return kernels.run_cells(path, gates, c), c
    return lstm_cells(gates, c)


def use_integers(model: nn.Module) -> list[str]:
    """Replaces the quantized layers of a model by layers that compute with codes, for evaluation on a CPU.

    A layer is unchanged if its inputs or weights are not quantized, or its zero point is not among its codes.

    Returns:
        The names of the replaced layers.
    """
    replaced = []
    for name, module in list(model.named_modules()):
        integer: nn.Module | None = None
        if isinstance(module, QuantizedLinear):
            product = _product(module.weight, module.weight_quantizer, module.input_quantizer, module.bias)
            integer = None if product is None else IntegerLinear(product)
        elif isinstance(module, QuantizedDepthwiseConv):
            integer = _integer_conv(module)
        elif isinstance(module, QuantizedLstmLayer):
            # The upper layers of a language model read the layer below, then the embedding.
            upper = isinstance(model, LstmLanguageModel) and module.input_dim > model.hidden_dim
            integer = _integer_lstm(module, [module.hidden_dim, module.hidden_dim] if upper else [module.input_dim])
        if integer is not None:
            model.set_submodule(name, integer)
            replaced.append(name)
    return replaced


def _product(
    weight: torch.Tensor, quantizer: nn.Module, inputs: nn.Module, bias: torch.Tensor | None, part: slice = slice(None)
) -> IntegerProduct | None:
    if not (isinstance(quantizer, Quantizer) and isinstance(inputs, Quantizer)):
        return None
    weights = Grid.of(quantizer, signed=False)
    if weights is None or Grid.of(inputs, signed=True) is None:
        return None
    codes = quantizer.codes(weight.detach()).to(torch.uint8)[:, part]
    return IntegerProduct(codes, weights, inputs, bias, quantizer.bits)


def _integer_conv(plain: QuantizedDepthwiseConv) -> IntegerDepthwiseConv | None:
    if not (isinstance(plain.weight_quantizer, Quantizer) and isinstance(plain.input_quantizer, Quantizer)):
        return None
    weights, inputs = Grid.of(plain.weight_quantizer, signed=False), Grid.of(plain.input_quantizer, signed=True)
    return None if weights is None or inputs is None else IntegerDepthwiseConv(plain, weights, inputs)


def _integer_lstm(plain: QuantizedLstmLayer, widths: Sequence[int]) -> IntegerLstmLayer | None:
    biases = plain.bias_ih + plain.bias_hh
    hidden = _product(plain.weight_hh, plain.hidden_weight_quantizer, plain.hidden_quantizer, None)
    inputs, begin = [], 0
    for width in widths:
        part = slice(begin, begin + width)
        begin += width
        bias = biases if begin == plain.input_dim else None
        inputs.append(_product(plain.weight_ih, plain.input_weight_quantizer, plain.input_quantizer, bias, part))
    products = [product for product in inputs if product is not None]
    return None if hidden is None or len(products) < len(inputs) else IntegerLstmLayer(products, hidden)
