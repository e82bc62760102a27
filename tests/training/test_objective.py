"""An objective owns what only training needs: it is trained, saved and resumed, and it does not ship."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from asrkit.config import LossConfig
from asrkit.data.batching import Batch
from asrkit.errors import UserError
from asrkit.models.transducer import Transducer
from asrkit.scoring.experiment import read_metrics
from asrkit.training.objective import CTC, TRANSDUCER, Losses, LossPart, TransducerObjective
from asrkit.training.speech import run_training
from tests.conftest import tiny_model
from tests.training.conftest import Workshop


class WithFrames(nn.Module):
    """The transducer's losses, and how well a linear map of the encoder's output tells each frame's energy."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain
        self.energy = nn.Linear(16, 1)

    def forward(self, model: Transducer, batch: Batch, phase: str) -> Losses:
        """Sums over utterances, and over frames for the energies."""
        losses: Losses = self.plain(model, batch, phase)
        encoder_out, encoder_lens = model.encoder(batch.features, batch.feature_lens)
        real = torch.arange(encoder_out.shape[1]) < encoder_lens[:, None]
        target = nn.functional.avg_pool1d(batch.features.mean(-1), 4)[:, : encoder_out.shape[1]]
        errors = (self.energy(encoder_out)[..., 0] - target).square()[real]
        frames = int(encoder_lens.sum())
        parts = losses.parts | {"energy": LossPart(errors.sum().detach(), frames)}
        utterances = len(batch.token_lens)
        return Losses(losses.total + errors.sum() * utterances / frames, losses.number, parts)


def test_parts_are_trained_saved_resumed_and_reported_by_what_they_are_means_over(workshop: Workshop) -> None:
    exp = workshop.folder / "energy"
    run_training(workshop.config(num_epochs=1), workshop.data_dir, exp, objective=WithFrames)
    start = load_file(exp / "checkpoints" / "epoch-0001.safetensors")
    assert start["objective.energy.weight"].shape == (1, 16)
    run_training(workshop.config(num_epochs=3), workshop.data_dir, exp, objective=WithFrames)
    whole = workshop.folder / "energy_unbroken"
    run_training(workshop.config(num_epochs=3), workshop.data_dir, whole, objective=WithFrames)
    resumed, unbroken = (load_file(folder / "averaged.safetensors") for folder in (exp, whole))
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    assert not torch.equal(start["objective.energy.weight"], resumed["objective.energy.weight"])
    assert not torch.equal(start["objective.plain.ctc_head.weight"], resumed["objective.plain.ctc_head.weight"])
    lines = read_metrics(exp / "metrics.jsonl")
    for line in lines:
        loss = line["loss"]
        assert set(loss) == {"loss", "ctc", "transducer", "energy"}
        # Energies are per frame, the others per utterance.
        assert loss["energy"] < 20 and loss["transducer"] > 20
    assert lines[-1]["loss"]["energy"] < lines[0]["loss"]["energy"]


def test_phases_minimise_what_they_say() -> None:
    model = tiny_model()
    objective = TransducerObjective(LossConfig(ctc_weight=0.25, ctc_only_epochs=1), model)
    torch.manual_seed(0)
    batch = Batch(
        torch.randn(2, 48, 16), torch.tensor([48, 40]), torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]), [], {}
    )
    first, both = (objective(model, batch, phase) for phase in (CTC, TRANSDUCER))
    ctc = first.parts["ctc"].total
    assert set(first.parts) == {"ctc"} and torch.equal(first.total.detach(), ctc)
    assert both.number == 2 and {part.number for part in both.parts.values()} == {2}
    expected = both.parts["transducer"].total + 0.25 * both.parts["ctc"].total
    assert math.isclose(both.total.item(), expected.item(), rel_tol=1e-6)
    first.total.backward()
    assert all(parameter.grad is None for parameter in model.joiner.parameters())


def test_heads_are_there_where_they_are_needed() -> None:
    model = tiny_model()
    for config, names in (
        (LossConfig(ctc_weight=0.0), set()),
        (LossConfig(ctc_weight=0.0, ctc_only_epochs=1), {"ctc_head"}),
        (LossConfig(prune_range=3), {"ctc_head", "simple_joiner"}),
    ):
        assert {name.split(".")[0] for name, _ in TransducerObjective(config, model).named_parameters()} == names
    with pytest.raises(UserError, match="give 0"):
        TransducerObjective(LossConfig(prune_range=1), model)
