"""The cost model of the INT4 transducer: a RaPiD-like accelerator, and this machine predicted from measured rates.

Usage: .venv/bin/python tools/bench/cost_model.py [--plot FILE.png] [--json] [--no-machine]

The plot shows the real-time factor against the beam. This machine's rates (a large product, a product of one row, a
search with tiny models) go into the same model, whose prediction of tools/bench/int4.py's INT4 transducer is compared
with a measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from int4 import (
    BEAM,
    FRAME_SHIFT_S,
    FRAMES,
    THREADS,
    UTTERANCES,
    WEIGHTS,
    decode,
    features,
    product_of_codes,
    read_system,
    write_models,
)

from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.beam_search import beam_search
from asrkit.decoding.density_ratio import Fusion
from asrkit.models.language_model import LstmLanguageModel
from asrkit.models.transducer import Transducer
from asrkit.quantization.cost_model import (
    FP16,
    INT4,
    RAPID_LIKE,
    Accelerator,
    Utterance,
    paper_products,
    predict,
    report,
)

BEAMS = (1, 2, 4, 8, 16, 32, 64)


def plot(path: Path) -> None:
    """Real-time factor against the beam, at both precisions."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for precision in (FP16, INT4):
        factors = []
        for beam in BEAMS:
            utterance = Utterance(beam=beam)
            factors.append(predict(RAPID_LIKE, paper_products(utterance), utterance, precision).rtf)
        axes.plot(BEAMS, factors, marker="o", label=precision.upper())
    axes.set(xscale="log", yscale="log", xlabel="beam", ylabel="real-time factor", title=RAPID_LIKE.name)
    axes.set_xticks(BEAMS, [str(beam) for beam in BEAMS])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def median_seconds(function: Callable[[], object], repeats: int = 15) -> float:
    """Of a call, after two to warm up."""
    times = []
    for turn in range(repeats + 2):
        started = time.perf_counter()
        function()
        if turn >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def measured(model: Transducer) -> Accelerator:
    """This machine as an accelerator: two rates, the time of a small product, and the search without large models."""
    large = product_of_codes(torch.randn(8192, 2048))
    wide, narrow = torch.randn(16, 2048), torch.randn(1, 2048)
    rate = 16 * 2048 * 8192 / median_seconds(lambda: large(wide))
    others = [product_of_codes(torch.randn(8192, 2048)) for _ in range(6)]  # more than the caches hold
    bytes_per_s = len(others) * 2048 * 8192 / 2 / median_seconds(lambda: [other(narrow) for other in others])
    small = product_of_codes(torch.randn(64, 64))
    few = torch.randn(BEAM, 64)
    call_s = median_seconds(lambda: small(few), 200)
    # The search itself: the same steps with models of hardly any weights.
    torch.manual_seed(0)
    target, source = (LstmLanguageModel(model.vocab_size, 8, layers, 8) for layers in (2, 1))
    fusion = Fusion(WEIGHTS, target, source)
    with torch.inference_mode():
        encoded = [model.encoder(features(n), torch.tensor([FRAMES])) for n in range(UTTERANCES)]

        def search() -> int:
            """How many steps it took."""
            options, steps = BeamOptions(beam=BEAM), 0
            for out, lens in encoded:
                found = beam_search(model, out, lens, frame_shift_s=FRAME_SHIFT_S, options=options, fusion=fusion)
                steps += FRAMES + len(found[0][0].tokens)
            return steps

        steps, seconds = search(), median_seconds(search, 3)
    of_predictor = 2 * call_s + 4 * 768 * 778 * BEAM / rate
    return Accelerator(
        name="this machine",
        macs_per_s={INT4: rate, FP16: rate / 4},
        bytes_per_s=bytes_per_s,
        scratchpad_bytes=2e6,
        compute_share=1.0,
        bandwidth_share=1.0,
        host_s_per_step=seconds / steps - of_predictor,
        call_s=call_s,
        assumed=("every figure is measured, but for the second-level cache of 2 MB and the joiner's float rate",),
    )


def this_machine() -> dict[str, float]:
    """The INT4 transducer's real-time factor, predicted and measured."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / INT4
        write_models(path, INT4)
        model, fusion = read_system(path, INT4)
        labels = [decode(model, fusion, n, INT4) for n in range(UTTERANCES)]
        accelerator = measured(model)
        utterance = Utterance(FRAMES, round(statistics.mean(labels)), BEAM, FRAME_SHIFT_S)
        print(report(accelerator, utterance, INT4, INT4))
        predicted = predict(accelerator, paper_products(utterance), utterance, INT4).rtf
        taken = median_seconds(lambda: [decode(model, fusion, n, INT4) for n in range(UTTERANCES)], 3)
    rtf = taken / UTTERANCES / (FRAMES * FRAME_SHIFT_S)
    return {"predicted_rtf": round(predicted, 4), "measured_rtf": round(rtf, 4), "ratio": round(predicted / rtf, 3)}


def main() -> None:
    """Prints the model's report, and what it makes of this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="a PNG")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    parser.add_argument("--no-machine", action="store_true", help="the accelerator alone")
    arguments = parser.parse_args()
    utterance = Utterance()
    print(report(RAPID_LIKE, utterance))
    slow, fast = (predict(RAPID_LIKE, paper_products(utterance), utterance, p) for p in (FP16, INT4))
    result: dict[str, float] = {"rtf_fp16": round(slow.rtf, 4), "rtf_int4": round(fast.rtf, 4)}
    result["speedup"] = round(slow.seconds / fast.seconds, 2)
    if arguments.plot:
        plot(arguments.plot)
    if not arguments.no_machine:
        result |= this_machine()
        print(", ".join(f"{key} {value}" for key, value in result.items()))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
