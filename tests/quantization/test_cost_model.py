from __future__ import annotations

from dataclasses import replace

import pytest

from asrkit.quantization.cost_model import (
    FP16,
    INT4,
    RAPID_LIKE,
    Product,
    Utterance,
    paper_products,
    predict,
    report,
    shares,
)


def test_the_products_are_the_papers() -> None:
    """54.17 M weights in the encoder, 2.39 M in the predictor; layer 1 is 8.8 % of the transducer's weights."""
    products = {product.name: product for product in paper_products(Utterance(), with_lms=False)}
    encoder = sum(product.weights for product in products.values() if product.part == "encoder")
    assert encoder == 54_169_600
    assert sum(product.weights for name, product in products.items() if name.startswith("predictor")) == 2_390_016
    first = sum(product.weights for name, product in products.items() if name.startswith("encoder layer 1,"))
    assert first == 5_017_600 and first / 57_164_282 == pytest.approx(0.088, abs=5e-4)


def test_layer_1_is_4_8_percent_of_the_compute() -> None:
    """Published for beam 16 and 152 frames."""
    products = paper_products(Utterance(labels=32), with_lms=False)
    assert shares(products, ["encoder layer 1,"])["encoder layer 1,"] == pytest.approx(0.048, abs=0.002)
    assert sum(product.macs for product in products) == pytest.approx(16e9, rel=0.06)


def test_the_published_speed_up_is_within_reach() -> None:
    """3.4 times and a real-time factor of 0.06 were published; the accelerator's details were not."""
    utterance = Utterance()
    slow, fast = (predict(RAPID_LIKE, paper_products(utterance), utterance, p) for p in (FP16, INT4))
    assert 2.5 < slow.seconds / fast.seconds < 4.5
    assert 0.03 < fast.rtf < 0.15
    text = report(RAPID_LIKE, utterance)
    assert all(line in text for line in RAPID_LIKE.assumed) and "real-time factor" in text


def test_what_does_not_fit_is_read_at_every_call() -> None:
    big = Product("big", "language models", 84_000_000, calls=10, rows=1)
    free = replace(RAPID_LIKE, host_s_per_step=0.0)
    utterance = Utterance()
    expected = 10 * 42e6 / (200e9 * 0.5)
    assert predict(free, [big], utterance, INT4).seconds == pytest.approx(expected)
    roomy = replace(free, scratchpad_bytes=1e9)
    assert predict(roomy, [big], utterance, INT4).seconds == pytest.approx(expected / 10)
    # With many rows arithmetic is what takes long.
    wide = replace(big, rows=100_000)
    assert predict(free, [wide], utterance, INT4).seconds == pytest.approx(wide.macs / (51.2e12 * 0.25))


def test_a_precision_without_a_rate_is_named() -> None:
    with pytest.raises(ValueError, match="has no rate at int8"):
        predict(RAPID_LIKE, paper_products(Utterance()), Utterance(), "int8")


def test_a_wider_beam_takes_longer() -> None:
    times = []
    for beam in (1, 4, 16, 64):
        utterance = Utterance(beam=beam)
        times.append(predict(RAPID_LIKE, paper_products(utterance), utterance, FP16).seconds)
    assert times == sorted(times)
