"""Estimates the time of a transducer with language models on an accelerator from its description.

The INT4 transducer of Fasoli et al. 2022 (arXiv 2206.07882) was timed on a simulated co-processor without published
details. This is a model of the same kind (Fasoli et al. 2021, arXiv 2108.12074, section 4): a product takes the time of
its arithmetic or of loading its weights, whichever is longer; everything else runs on the host, in a fixed time per
search step. :data:`RAPID_LIKE` has the published figures of RaPiD and names those that are assumed. Given a machine's
measured rates, the same model predicts that machine (``tools/bench/cost_model.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INT4, INT8, FP16, FP32 = "int4", "int8", "fp16", "fp32"
WEIGHT_BYTES = {INT4: 0.5, INT8: 1.0, FP16: 2.0, FP32: 4.0}


@dataclass(frozen=True)
class Accelerator:
    """The machine on which products run."""

    name: str
    macs_per_s: Mapping[str, float]
    """Peak multiply-accumulates per second by precision, of all cores."""
    bytes_per_s: float
    """Memory bandwidth."""
    scratchpad_bytes: float
    """Weights in it are loaded once per utterance."""
    compute_share: float
    """Share of the peak that products reach."""
    bandwidth_share: float
    """Share of the bandwidth that weights reach."""
    host_s_per_step: float
    """The host's time per search step: sorting, pruning, gates, everything except products."""
    call_s: float = 0.0
    """Time to start a product."""
    assumed: Sequence[str] = ()
    """The values that were not published."""


RAPID_LIKE = Accelerator(
    name="RaPiD-like, 4 cores",
    macs_per_s={INT4: 51.2e12, FP16: 6.4e12},
    bytes_per_s=200e9,
    scratchpad_bytes=8e6,
    compute_share=0.25,
    bandwidth_share=0.5,
    host_s_per_step=0.25e-3,
    assumed=(
        "INT4 is 102.4 TOPS as published (ISSCC 2021, 9.1), FP16 an eighth of it",
        "scratchpad of 2 MB a core and 200 GB/s: from memory, not verified",
        "products reach 25 % of the peak and weights 50 % of the bandwidth",
        "the host takes 0.25 ms for a search step",
        "the joiner stays in FP16",
    ),
)


@dataclass(frozen=True)
class Product:
    """A weight matrix and its products in one utterance."""

    name: str
    part: str
    weights: int
    calls: int
    rows: int
    """Rows per call."""
    quantized: bool = True

    @property
    def macs(self) -> int:
        """Multiply-accumulates in the utterance."""
        return self.weights * self.calls * self.rows


@dataclass(frozen=True)
class Utterance:
    """The decoded utterance."""

    frames: int = 152
    """Encoder frames; the mean of the paper's test sets."""
    labels: int = 40
    beam: int = 16
    frame_shift_s: float = 0.02

    @property
    def steps(self) -> int:
        """Steps of the alignment-length synchronous search."""
        return self.frames + self.labels

    @property
    def seconds(self) -> float:
        """Seconds of speech."""
        return self.frames * self.frame_shift_s


def lstm(name: str, part: str, inputs: int, hidden: int, calls: int, rows: int, over_time: bool) -> list[Product]:
    """An LSTM layer: for a sequence, all inputs are one product; in a search, each step has its own."""
    input_calls = (1, calls * rows) if over_time else (calls, rows)
    recurrent = Product(f"{name}, hidden", part, 4 * hidden * hidden, calls, rows)
    return [Product(f"{name}, input", part, 4 * hidden * inputs, *input_calls), recurrent] if inputs else [recurrent]


def paper_products(utterance: Utterance, with_lms: bool = True) -> list[Product]:
    """The paper's transducer of 57 M parameters with its source (5 M) and external (84 M) language models.

    The search evaluates the predictor and the language models once for each new label sequence, at most ``beam`` of
    them per step, together. A symbol's contribution to a language model's gates is looked up.
    """
    products = []
    for layer in range(6):
        for side in ("forward", "backward"):
            inputs = 340 if layer == 0 else 1280
            products += lstm(f"encoder layer {layer + 1}, {side}", "encoder", inputs, 640, utterance.frames, 1, True)
    steps, beam = utterance.steps, utterance.beam
    products += lstm("predictor", "predictor", 10, 768, steps, beam, False)
    products += [
        Product("joiner, encoder", "joiner", 1280 * 256, 1, utterance.frames, quantized=False),
        Product("joiner, predictor", "joiner", 768 * 256, steps, beam, quantized=False),
        Product("joiner, output", "joiner", 256 * 46, steps, beam, quantized=False),
    ]
    if with_lms:
        products += lstm("source LM", "language models", 0, 768, steps, beam, False)
        products += lstm("external LM 1", "language models", 0, 2048, steps, beam, False)
        products += lstm("external LM 2", "language models", 2048, 2048, steps, beam, False)
        products += [Product("bottlenecks", "language models", (768 + 2048) * 256, steps, beam)]
    return products


@dataclass(frozen=True)
class Prediction:
    """Seconds per utterance."""

    by_part: dict[str, float]
    """Including ``host``."""
    utterance: Utterance

    @property
    def seconds(self) -> float:
        """Total seconds."""
        return sum(self.by_part.values())

    @property
    def rtf(self) -> float:
        """Real-time factor."""
        return self.seconds / self.utterance.seconds


def predict(accelerator: Accelerator, products: Sequence[Product], utterance: Utterance, precision: str) -> Prediction:
    """Times of all parts at a precision; parts that are not quantized use FP16 if the precision is lower.

    The most frequently multiplied matrices stay in the scratchpad as far as they fit; the encoder's layers use it
    one after the other.

    Raises:
        ValueError: the accelerator has no rate at a precision.
    """
    if missing := {_precision(product, precision) for product in products} - set(accelerator.macs_per_s):
        raise ValueError(f"{accelerator.name} has no rate at {', '.join(sorted(missing))}")
    free = accelerator.scratchpad_bytes
    times: dict[str, float] = {}
    resident = set()
    for product in sorted(products, key=lambda product: (product.part == "encoder", -product.calls, product.weights)):
        size = product.weights * WEIGHT_BYTES[_precision(product, precision)]
        if product.part == "encoder":  # layer by layer, before the search begins
            if size <= accelerator.scratchpad_bytes:
                resident.add(product.name)
        elif size <= free:
            free -= size
            resident.add(product.name)
    for product in products:
        product_precision = _precision(product, precision)
        rate = accelerator.macs_per_s[product_precision] * accelerator.compute_share
        bandwidth = accelerator.bytes_per_s * accelerator.bandwidth_share
        loading = product.weights * WEIGHT_BYTES[product_precision] / bandwidth
        if product.name in resident:
            seconds = max(product.macs / rate, loading)
        else:
            seconds = product.calls * max(product.weights * product.rows / rate, loading)
        times[product.part] = times.get(product.part, 0.0) + seconds + product.calls * accelerator.call_s
    times["host"] = utterance.steps * accelerator.host_s_per_step
    return Prediction(times, utterance)


def _precision(product: Product, precision: str) -> str:
    return FP16 if not product.quantized and precision in (INT4, INT8) else precision


def shares(products: Sequence[Product], of: Sequence[str]) -> dict[str, float]:
    """Share of all multiplications in the products whose names begin with each prefix in ``of``."""
    total = sum(product.macs for product in products)
    return {name: sum(p.macs for p in products if p.name.startswith(name)) / total for name in of}


def report(accelerator: Accelerator, utterance: Utterance, low: str = INT4, high: str = FP16) -> str:
    """Real-time factors at two precisions, part by part, and every assumption."""
    products = paper_products(utterance)
    slow, fast = (predict(accelerator, products, utterance, precision) for precision in (high, low))
    lines = [f"{accelerator.name}: {utterance.seconds:.2f} s of speech, {utterance.steps} steps, beam {utterance.beam}"]
    lines += [f"{'part':<18}{high + ' ms':>12}{low + ' ms':>12}"]
    for part in slow.by_part:
        lines.append(f"{part:<18}{1e3 * slow.by_part[part]:>12.2f}{1e3 * fast.by_part[part]:>12.2f}")
    lines.append(f"{'real-time factor':<18}{slow.rtf:>12.4f}{fast.rtf:>12.4f}{slow.seconds / fast.seconds:>8.2f} times")
    lines += [f"assumed: {line}" for line in accelerator.assumed]
    return "\n".join(lines)
