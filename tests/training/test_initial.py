"""``train.init_from``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrkit.bundle.build import build_transducer
from asrkit.bundle.model_file import ModelBundle, load_recognizer, save_recognizer
from asrkit.config_losses import LossConfig
from asrkit.config_training import TrainConfig
from asrkit.errors import UserError
from asrkit.models.transducer import Transducer
from asrkit.text.tokenizer import CharTokenizer
from asrkit.training.initial import load_initial
from asrkit.training.objective import Trainable, TransducerObjective
from asrkit.training.run import run_training
from tests.conftest import Workshop, tiny_bundle, tiny_config, tiny_model


def module_like(bundle: ModelBundle[Transducer], seed: int = 5) -> Trainable:
    model = tiny_model(bundle.tokenizer.vocab_size, seed)
    return Trainable(model, TransducerObjective(LossConfig(), model))


def test_all_weights_are_taken_and_heads_where_they_are_there(tmp_path: Path) -> None:
    bundle, path = tiny_bundle(), tmp_path / "m.safetensors"
    head = TransducerObjective(LossConfig(), bundle.model).state_dict()
    for objective in (None, head):
        save_recognizer(path, bundle, objective)
        module = module_like(bundle)
        before = {name: tensor.clone() for name, tensor in module.objective.state_dict().items()}
        load_initial(TrainConfig(init_from=str(path)), module, bundle.tokenizer, tmp_path)
        for name, tensor in bundle.model.state_dict().items():
            assert torch.equal(module.model.state_dict()[name], tensor)
        for name, tensor in module.objective.state_dict().items():
            assert torch.equal(tensor, head[name] if objective else before[name])


def test_differences_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, path = tiny_bundle(), tmp_path / "m.safetensors"
    save_recognizer(path, bundle)
    symbols = CharTokenizer((*bundle.tokenizer.to_dict()["symbols"], "Ä"))
    config = tiny_config()
    config.model.encoder.conformer.num_layers = 3
    model = build_transducer(config, symbols.vocab_size)
    module = Trainable(model, TransducerObjective(LossConfig(), model))
    before = model.joiner.out.weight.clone()
    with pytest.raises(UserError, match=r"it lacks model\.encoder\.blocks\.2.* shape: .*joiner.*symbols differ"):
        load_initial(TrainConfig(init_from=str(path)), module, symbols, tmp_path)
    load_initial(TrainConfig(init_from=str(path), init_mismatch="report"), module, symbols, tmp_path)
    assert "it lacks model.encoder.blocks.2" in capsys.readouterr().err
    taken = "encoder.blocks.0.ff1.up.weight"
    assert torch.equal(model.state_dict()[taken], bundle.model.state_dict()[taken])
    assert torch.equal(model.joiner.out.weight, before)


def test_a_training_starts_from_another(workshop: Workshop) -> None:
    first, second = workshop.folder / "first", workshop.folder / "second"
    run_training(workshop.config(num_epochs=1), workshop.data_dir, first)
    config = workshop.config(num_epochs=1, init_from=str(first / "averaged.safetensors"))
    config.train.schedule.initial_lr = config.train.schedule.peak_lr = 0.0
    run_training(config, workshop.data_dir, second)
    expected = load_recognizer(first / "averaged.safetensors").model.state_dict()
    found = load_recognizer(second / "averaged.safetensors").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    run_training(workshop.config(num_epochs=2), workshop.data_dir, first)  # the file is another one now
    with pytest.raises(UserError, match=r"digest of train\.init_from="):
        run_training(config, workshop.data_dir, second)
