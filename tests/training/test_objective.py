"""An objective owns what only training needs: it is trained, saved and resumed, and it does not ship."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from asrkit.config_losses import LossConfig
from asrkit.data.batching import Batch
from asrkit.errors import UserError
from asrkit.models.conformer import Conformer
from asrkit.models.transducer import Transducer
from asrkit.scoring.experiment import read_metrics
from asrkit.training.objective import CTC, TRANSDUCER, Losses, LossPart, TransducerObjective
from asrkit.training.phase import Phase
from asrkit.training.run import run_training
from tests.conftest import Workshop, tiny_model


class WithFrames(nn.Module):
    """The transducer's losses, and how well a linear map of the encoder's output tells each frame's energy."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain
        self.energy = nn.Linear(16, 1)

    def forward(self, model: Transducer, batch: Batch, phase: Phase) -> Losses:
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
    first, both = (objective(model, batch, Phase(name)) for name in (CTC, TRANSDUCER))
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


def two_views(batch: Batch) -> Batch:
    """Each utterance twice, the second time with a part of it masked."""
    masked = batch.features.clone()
    masked[:, 8:16] = 0.0
    return Batch(
        torch.cat([batch.features, masked]),
        batch.feature_lens.repeat(2),
        batch.tokens.repeat(2, 1),
        batch.token_lens.repeat(2),
        batch.cuts,
        {},
        views=2,
    )


def small_batch() -> Batch:
    torch.manual_seed(0)
    tokens, lens = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    return Batch(torch.randn(2, 48, 16), torch.tensor([48, 40]), tokens, lens, [], {})


def test_views_count_once() -> None:
    model, batch = tiny_model(), small_batch()
    config = LossConfig(ctc_weight=0.25, consistency_weight=0.2)
    objective = TransducerObjective(config, model).eval()
    one, (_, second) = objective(model, batch, Phase(TRANSDUCER)), two_views(batch).features.chunk(2)
    assert "consistency" not in one.parts
    both = objective(model, two_views(batch), Phase(TRANSDUCER))
    other = objective(model, replace(batch, features=second), Phase(TRANSDUCER))
    assert both.number == one.number == 2
    for name in ("ctc", "transducer"):
        mean = (one.parts[name].total + other.parts[name].total) / 2
        assert both.parts[name].total.item() == pytest.approx(mean.item(), rel=1e-5)
    parts = {name: part.total.item() for name, part in both.parts.items()}
    expected = parts["transducer"] + 0.25 * (parts["ctc"] + 0.2 * parts["consistency"])
    assert parts["consistency"] > 0 and both.total.item() == pytest.approx(expected, rel=1e-6)


def test_an_inner_block_has_a_ctc_loss_of_its_own() -> None:
    model, batch = tiny_model(), small_batch()
    objective = TransducerObjective(LossConfig(ctc_weight=1.0, intermediate_ctc_weight=0.3), model)
    losses = objective(model, batch, Phase(CTC))
    parts = {name: part.total.item() for name, part in losses.parts.items()}
    assert losses.total.item() == pytest.approx(0.7 * parts["ctc"] + 0.3 * parts["intermediate_ctc"], rel=1e-6)
    # The block of two is the first, whose output the head sees as the last one's.
    encoder = model.encoder
    assert isinstance(encoder, Conformer) and objective.ctc_head is not None
    del encoder.blocks[1]
    inner = TransducerObjective(LossConfig(ctc_weight=1.0), model)
    inner.load_state_dict(objective.state_dict())
    assert inner(model, batch, Phase(CTC)).total.item() == pytest.approx(parts["intermediate_ctc"], rel=1e-5)
    with pytest.raises(UserError, match="intermediate_ctc_block is 1; the encoder has 1 blocks"):
        TransducerObjective(LossConfig(intermediate_ctc_weight=0.3, intermediate_ctc_block=1), model)
    with pytest.raises(UserError, match=r"need a loss\.ctc_weight above 0"):
        TransducerObjective(LossConfig(ctc_weight=0.0, consistency_weight=0.2), model)


def test_two_views_train_and_resume(workshop: Workshop) -> None:
    config = workshop.config(num_epochs=2)
    config.loss = LossConfig(ctc_weight=0.3, consistency_weight=0.2, intermediate_ctc_weight=0.3, ctc_only_epochs=1)
    exp = workshop.folder / "views"
    run_training(config, workshop.data_dir, exp)
    lines = read_metrics(exp / "metrics.jsonl")
    assert set(lines[1]["loss"]) == {"loss", "ctc", "intermediate_ctc", "consistency", "transducer"}
    assert lines[0]["utterances"] == 24 and lines[0]["augmented"]["spec_augment"] <= 24
    assert lines[1]["loss"]["consistency"] > 0
