"""Training through quantizers: from a float model, after a kill, and that it lowers the loss."""

from __future__ import annotations

import torch

from asrkit.bundle.model_file import load_recognizer
from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.quantization.qat import QuantizedLinear
from asrkit.scoring.experiment import read_metrics
from asrkit.training.run import run_training
from tests.conftest import Workshop
from tests.quantization.test_qat import EVERYTHING


def test_quantization_aware_training_starts_from_a_float_model_and_resumes(workshop: Workshop) -> None:
    start = workshop.folder / "float"
    run_training(workshop.config(num_epochs=1), workshop.data_dir, start)

    def config(epochs: int) -> Config:
        made = workshop.config(num_epochs=epochs, init_from=str(start / "averaged.safetensors"))
        quantized = config_from_dict(EVERYTHING, "tests")
        made.quantization, made.rewrites = quantized.quantization, quantized.rewrites
        return made

    exp, whole = workshop.folder / "qat", workshop.folder / "qat_whole"
    run_training(config(1), workshop.data_dir, exp)
    run_training(config(2), workshop.data_dir, exp)
    run_training(config(2), workshop.data_dir, whole)
    resumed, unbroken = (load_recognizer(folder / "averaged.safetensors").model for folder in (exp, whole))
    for (name, a), b in zip(resumed.state_dict().items(), unbroken.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    lines = read_metrics(exp / "metrics.jsonl")
    before = read_metrics(start / "metrics.jsonl")
    assert lines[1]["loss"]["loss"] < lines[0]["loss"]["loss"] < before[0]["loss"]["loss"]
    layer = resumed.get_submodule("encoder.blocks.0.ff1.up")
    assert isinstance(layer, QuantizedLinear)
    rows = layer.weight_quantizer(layer.weight)
    assert max(len(row.unique()) for row in rows) <= 15
