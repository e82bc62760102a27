"""BL-JUST (Cui et al. 2024, arXiv 2412.08548): the checks of a penalised bilevel training."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lhotse import CutSet
from safetensors.torch import load_file
from torch import nn

from asrkit.config import Config
from asrkit.config_files import config_from_dict
from asrkit.config_losses import LossConfig
from asrkit.config_unsupervised import BestRqConfig, BlJustConfig, CpcConfig
from asrkit.data.batching import Batch, BatchBudget, plan_epoch
from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.folder import DataFolder
from asrkit.distributed.learners import AllReduce
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.models.conformer import Conformer
from asrkit.models.transducer import Transducer
from asrkit.scoring.experiment import read_metrics
from asrkit.training.bl_just import BilevelObjective, BilevelTask, G, gamma
from asrkit.training.loop import Loop
from asrkit.training.objective import CTC, TRANSDUCER, Losses, TransducerObjective
from asrkit.training.paired_streams import EXPLORATION, JointSteps, PairedPart
from asrkit.training.phase import Phase
from asrkit.training.run import run_training
from asrkit.training.task import OwnParts, Step
from asrkit.training.unsupervised import BestRqObjective, CpcObjective
from tests.conftest import Workshop, tiny_model

BEST_RQ = {"codebook_size": 16, "codebook_dim": 4, "mask_probability": 0.1, "mask_span": 8}
SLOW = {"type": "one_cycle", "initial_lr": 1e-4, "peak_lr": 1e-4, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def unlabelled(workshop: Workshop, an4_cuts: CutSet) -> Path:
    """Ten utterances of AN4 without their transcripts."""
    folder = DataFolder(workshop.folder / "unlabelled")
    cuts = CutSet.from_cuts(
        cut.map_supervisions(lambda s: replace(s, text=None)) for cut in list(an4_cuts)[30:40]
    ).to_eager()
    make_features(cuts, "train", folder, sampling_rate_hz=16000, num_mel_bins=16, speed_factors=[1.0], store=True)
    folder.save_statistics(compute_statistics(cuts, FeaturePipeline(num_mel_bins=16, normalization="none")))
    return folder.path


@pytest.fixture
def configured(workshop: Workshop, unlabelled: Path) -> Callable[..., Config]:
    """The tiny experiment with unlabelled speech and other settings of ``bl_just`` and ``train``."""

    def make(train: dict[str, Any] | None = None, **bl_just: object) -> Config:
        values = yaml.safe_load(workshop.config_path.read_text())
        values["train"] |= train or {}
        given = {"loss": "best_rq", "unlabelled_dir": str(unlabelled), "batch_seconds": 12.0} | bl_just
        if given["loss"] == "best_rq":
            given = {"best_rq": BEST_RQ} | given
        return config_from_dict(values | {"bl_just": given}, "tests")

    return make


class Half(nn.Module):
    """½ Σ (θ_i − target_i)² over some coordinates of θ, once for each utterance."""

    def __init__(self, targets: dict[str, float], number: int) -> None:
        super().__init__()
        self.targets, self.number = targets, number

    def value(self, model: nn.Module) -> torch.Tensor:
        terms = [(model.get_parameter(name) - target).square() / 2 for name, target in self.targets.items()]
        return torch.stack(terms).sum()

    def forward(self, model: nn.Module, *batch: object) -> Any:
        if isinstance(batch[-1], Phase):  # f, of the whole model
            return Losses(self.number * self.value(model), self.number, {})
        return self.value(model).expand(self.number)  # g, of its encoder


class Point(nn.Module):
    """θ = (t1, t2), where the encoder is t1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ParameterDict({"t1": nn.Parameter(torch.tensor(5.0, dtype=torch.float64))})
        self.t2 = nn.Parameter(torch.tensor(-3.0, dtype=torch.float64))


@pytest.mark.parametrize(("weight", "t1", "gap"), [(0.2, 0.833333, 0.347222), (1.0, 0.5, 0.125), (9.0, 0.1, 0.005)])
def test_the_quadratic_toy_has_the_optimum_of_its_closed_form(weight: float, t1: float, gap: float) -> None:
    """f = ½(t1 − 1)² + ½(t2 − 2)², g = ½ t1²: t1 = 1 / (1 + γ), t2 = 2, whatever the numbers of utterances."""
    point = Point()
    objective = BilevelObjective(Half({"encoder.t1": 1.0, "t2": 2.0}, 3), Half({"t1": 0.0}, 7))
    none = torch.zeros(0)
    batch = Batch(none, none, none, none, [], {}, unlabelled=Batch(none, torch.zeros(7), none, none, [], {}))
    optimizer = torch.optim.SGD(point.parameters(), lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        losses = objective(point, batch, Phase(TRANSDUCER, penalty=weight * 3 / 7))
        (losses.total / losses.number).backward()
        optimizer.step()
    assert point.encoder["t1"].item() == pytest.approx(t1, abs=1e-6)
    assert point.t2.item() == pytest.approx(2.0)
    assert point.encoder["t1"].item() ** 2 / 2 == pytest.approx(gap, abs=1e-6)


def test_gamma_rises_by_equal_steps_and_never_reaches_its_end() -> None:
    config = BlJustConfig(max_gamma=0.2)
    values = [gamma(k, 100, config) for k in range(1, 101)]
    assert [values[k - 1] for k in (1, 2, 50, 100)] == pytest.approx([0.0, 0.002, 0.098, 0.198])
    assert values == sorted(values)
    assert {gamma(k, 10, BlJustConfig(max_gamma=0.1, gamma_schedule="constant")) for k in range(1, 11)} == {0.1}


def paired_batch(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    nothing = torch.zeros(3, 0), torch.zeros(3)
    other = Batch(torch.randn(3, 80, 16), torch.tensor([80, 72, 50]), *nothing, [], {}, seeds=[1, 2, 3])
    tokens, lens = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    return Batch(torch.randn(2, 48, 16), torch.tensor([48, 40]), tokens, lens, [], {}, unlabelled=other)


def objective_of(model: Transducer, loss: str = "best_rq") -> BilevelObjective:
    torch.manual_seed(1)
    unsupervised: nn.Module
    if loss == "cpc":
        unsupervised = CpcObjective(CpcConfig(window_frames=24, num_steps=2, dim=8), model.encoder, 16)
    else:
        unsupervised = BestRqObjective(BestRqConfig(**BEST_RQ), model.encoder, 16, seed=1)  # type: ignore[arg-type]
    return BilevelObjective(TransducerObjective(LossConfig(ctc_weight=0.3), model), unsupervised)


def generators(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in range(number)]


def gradients(model: Transducer, objective: BilevelObjective, batch: Batch, phase: Phase) -> dict[str, torch.Tensor]:
    module = nn.ModuleDict({"model": model, "objective": objective})
    module.zero_grad(set_to_none=True)
    losses = objective(model, batch, phase)
    (losses.total / losses.number).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", ["best_rq", "cpc"])
def test_each_gradient_reaches_its_parameters_and_no_others(loss: str) -> None:
    model = tiny_model().eval()
    objective, batch = objective_of(model, loss).eval(), paired_batch()
    theta, eta = "model.encoder.", "objective.unsupervised."
    f = gradients(model, objective, batch, Phase(TRANSDUCER))
    assert not any(name.startswith(eta) for name in f)
    assert any(name.startswith("model.predictor") for name in f) and "objective.supervised.ctc_head.weight" in f
    g = gradients(model, objective, batch.unlabelled or batch, Phase(EXPLORATION))
    assert g and all(name.startswith((theta, eta)) for name in g)
    for weight in (0.5, 2.0):  # the penalty is not a number on its way: with another γ there is another gradient
        of_sum = weight * 2 / 3  # two labelled utterances, three unlabelled ones
        both = gradients(model, objective, batch, Phase(TRANSDUCER, penalty=of_sum))
        assert both.keys() == f.keys() | g.keys()
        for name, value in both.items():
            nothing = torch.zeros_like(value)
            expected = f.get(name, nothing) + weight * g.get(name, nothing)
            assert torch.allclose(value, expected, atol=1e-6), name


def test_a_phase_leaves_the_parameters_of_others_alone_weight_decay_included() -> None:
    model = tiny_model()
    objective = objective_of(model)
    module = nn.ModuleDict({"model": model, "objective": objective})
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.5)
    batch = paired_batch()

    def changed_by(phase: Phase, batch: Batch) -> set[str]:
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            losses = objective(model, batch, phase)
            losses.total.backward()
            optimizer.step()
        return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}

    every = {name for name, _ in module.named_parameters()}
    eta = {name for name in every if name.startswith("objective.unsupervised")}
    theta = {name for name in every if name.startswith("model.encoder")}
    assert changed_by(Phase(TRANSDUCER, penalty=0.1), batch) == every
    assert changed_by(Phase(EXPLORATION), batch.unlabelled or batch) == theta | eta
    assert changed_by(Phase(TRANSDUCER), batch) == every - eta  # γ = 0, and fine-tuning
    assert changed_by(Phase(CTC), batch) == theta | {f"objective.supervised.ctc_head.{n}" for n in ("weight", "bias")}


@pytest.mark.parametrize("projection", ["random", "pca"])
def test_best_rq_labels_may_come_from_a_block_of_a_trained_encoder(projection: str) -> None:
    model, teacher = tiny_model().eval(), tiny_model(seed=5).eval().encoder
    assert isinstance(teacher, Conformer)
    config = BestRqConfig(codebook_size=16, codebook_dim=4, align_block=1, projection=projection)
    torch.manual_seed(0)
    speech = [torch.randn(60, 16) for _ in range(9)]
    objective = BestRqObjective(config, model.encoder, 16, seed=1, speech=speech, teacher=teacher)
    plain = BestRqObjective(config, model.encoder, 16, seed=1, speech=speech)
    x, lens = torch.randn(2, 64, 16), torch.tensor([64, 40])
    labels = objective.labels(x, lens, 16)
    _, _, (inside,) = teacher.forward_blocks(x, lens, (1,))
    assert torch.equal(labels, objective.quantizer(inside))
    assert not torch.equal(labels, plain.labels(x, lens, 16))
    assert not any("teacher" in name for name in objective.state_dict())
    assert objective(model.encoder, x, lens, generators(2)).shape == (2,)


@pytest.mark.parametrize("loss", ["best_rq", "cpc"])
def test_padding_changes_no_unsupervised_loss(loss: str) -> None:
    model = tiny_model().eval()
    objective = objective_of(model, loss).unsupervised.eval()
    x, lens = torch.randn(3, 90, 16), torch.tensor([90, 62, 41])
    x *= (torch.arange(90) < lens[:, None])[..., None]
    padded = nn.functional.pad(x, (0, 0, 0, 38), value=7.0)
    seeds = generators(3)
    losses = objective(model.encoder, x, lens, seeds)
    assert (losses > 0).all()
    assert torch.allclose(objective(model.encoder, padded, lens, generators(3)), losses, atol=1e-5)
    alone = objective(model.encoder, x[1:2, :62], lens[1:2], generators(3)[1:2])
    if loss == "best_rq":  # of CPC the others are negatives
        assert torch.allclose(alone, losses[1:2], atol=1e-5)


def test_cpc_sees_nothing_of_what_it_predicts() -> None:
    """A change after a window changes targets, not predictions: with the negatives' targets held, the encoder's
    outputs are the same."""
    model = tiny_model().eval()
    objective = CpcObjective(CpcConfig(window_frames=24, num_steps=2, dim=8), model.encoder, 16)
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_hook(lambda module, inputs, out: seen.append(out[0].detach()))
    x, lens = torch.randn(1, 32, 16), torch.tensor([32])
    other = torch.cat([x[:, :24], torch.randn(1, 8, 16)], dim=1)
    losses = [objective(model.encoder, features, lens, generators(1)) for features in (x, other)]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(*losses)
    short = objective(model.encoder, x[:, :8], torch.tensor([8]), generators(1))  # no room for a window
    short.sum().backward()
    assert short.tolist() == [0.0] and all(p.grad is not None for p in objective.parameters())
    assert objective.least_frames == 12
    both = objective(model.encoder, torch.randn(2, 200, 16), torch.tensor([200, 30]), generators(2))
    assert both.shape == (2,) and (both > 0).all()
    with pytest.raises(UserError, match="raise it"):
        CpcObjective(CpcConfig(window_frames=24, num_steps=8), model.encoder, 16)


def test_an_epoch_explores_then_joins_two_independent_streams(
    configured: Callable[..., Config], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[BilevelTask] = []
    original = BilevelTask.__init__

    def init(task: BilevelTask, *arguments: Any) -> None:
        original(task, *arguments)
        tasks.append(task)

    monkeypatch.setattr(BilevelTask, "__init__", init)
    stages = {"pretraining_epochs": 1, "fine_tuning_epochs": 1, "pretraining_schedule": SLOW}
    config = configured(
        {"num_epochs": 2}, exploration_lr_scale=0.5, fine_tuning_schedule=SLOW | {"peak_lr": 5e-5}, **stages
    )
    config = replace(config, spec_augment=replace(config.spec_augment, from_epoch=2))
    exp = workshop.folder / "stages"
    run_training(config, workshop.data_dir, exp)
    (task,) = tasks
    kinds = []
    for epoch in (1, 2, 3, 4):
        steps = task.plan(epoch)[:]
        explored = [step for step in steps if step.phase.name == EXPLORATION]
        joint = [step for step in steps if step.phase.name != EXPLORATION]
        rows = [row for step in explored for part in step.parts for row in part.unlabelled[:, 0].tolist()]
        assert sorted(rows) == (list(range(10)) if epoch < 4 else [])
        assert all(isinstance(part, PairedPart) for step in steps for part in step.parts)
        labelled = [row for step in joint for part in step.parts for row in part.labelled[:, 0].tolist()]
        assert sorted(labelled) == (list(range(24)) if epoch > 1 else [])
        gammas = {round(step.phase.penalty * _others(step) / _labels(task, step), 9) for step in joint}
        kinds.append((bool(explored), gammas, {step.phase.lr_scale for step in explored}))
    assert kinds == [(True, set(), {1.0}), (True, {0.0}, {0.5}), (True, {0.1}, {0.5}), (False, {0.0}, set())]
    paired = [step.parts[0].unlabelled.tolist() for step in task.plan(3) if step.phase.penalty]
    explored_rows = [step.parts[0].unlabelled.tolist() for step in task.plan(3) if step.phase.name == EXPLORATION]
    assert all(paired) and paired[: len(explored_rows)] != explored_rows
    assert task.learning_rate(4, 0.0) == 5e-5 < task.learning_rate(1, 0.0) == 1e-4
    lines = read_metrics(exp / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[1]["augmented"]["spec_augment"] == 0 < lines[2]["augmented"]["spec_augment"]  # of those with labels
    assert "loss" not in lines[0]["loss"] and lines[0]["utterances"] == 0 and lines[0]["dev_wer"] is None
    assert G in lines[2]["loss"] and lines[3]["unlabelled_s"] == 0
    assert all({"f", "g", "gradient_f", "gradient_g"} == set(line["bl_just"]) for line in lines)
    weights = [load_file(exp / "checkpoints" / f"epoch-000{n}.safetensors") for n in (3, 4)]
    head = "objective.unsupervised.head.weight"
    assert torch.equal(weights[0][head], weights[1][head])  # fine-tuning leaves η alone
    assert "objective.unsupervised.quantizer.codebooks" in weights[0]


def _others(step: Step) -> int:
    return sum(len(part.unlabelled) for part in step.parts)


def _labels(task: BilevelTask, step: Step) -> int:
    dataset = task.dataset([], 1)
    return sum(int(dataset.load(part.labelled).token_lens.sum()) for part in step.parts if part.counts[0])


@pytest.mark.parametrize("loss", ["best_rq", "cpc"])
def test_exploration_alone_lowers_g(configured: Callable[..., Config], workshop: Workshop, loss: str) -> None:
    config = configured(
        {"num_epochs": 1},
        loss=loss,
        pretraining_epochs=4,
        pretraining_schedule=SLOW | {"initial_lr": 3e-3, "peak_lr": 3e-3},
        max_gamma=0.0,
        exploration=0.0,
    )
    exp = workshop.folder / f"explored_{loss}"
    run_training(config, workshop.data_dir, exp)
    g = [line["bl_just"]["g"] for line in read_metrics(exp / "metrics.jsonl")]
    assert g[3] < g[0]


def test_exploration_leaves_the_moments_of_supervised_updates_alone(
    configured: Callable[..., Config], workshop: Workshop
) -> None:
    constant = {"type": "warmup_hold_decay", "peak_lr": 1e-3, "warmup_epochs": 0, "hold_epochs": 3}
    weights = []
    for exploration in (0.0, 2.0):
        train = {"num_epochs": 2, "schedule": constant}
        config = configured(train, max_gamma=0.0, exploration=exploration, exploration_lr_scale=0.0)
        config.model.encoder.conformer.dropout = 0.0  # drawn by the number of the update
        config.model.predictor.dropout = config.model.predictor.embedding_dropout = 0.0
        exp = workshop.folder / f"moments_{exploration:g}"
        run_training(config, workshop.data_dir, exp)
        weights.append(load_file(exp / "checkpoints" / "epoch-0002.safetensors"))
    alone, explored = weights
    assert any(line["unlabelled_s"] for line in read_metrics(exp / "metrics.jsonl"))
    assert all(torch.equal(alone[name], explored[name]) for name in alone if name.startswith("model."))


def test_a_resumed_run_and_two_processes_train_alike(
    configured: Callable[..., Config], workshop: Workshop, unlabelled: Path, tmp_path: Path
) -> None:
    given = ["bl_just.loss=best_rq", f"bl_just.unlabelled_dir={unlabelled}", "bl_just.batch_seconds=12"]
    given += [f"bl_just.best_rq.{name}={value}" for name, value in BEST_RQ.items()]
    given += ["bl_just.gamma_schedule=constant", "bl_just.fine_tuning_epochs=1"]
    workshop.finish("joint_whole", *given, "train.num_epochs=2")
    process = workshop.start("joint_resumed", *given, "train.num_epochs=2")
    checkpoints = workshop.folder / "joint_resumed" / "checkpoints"
    while process.poll() is None and len(list(checkpoints.glob("epoch-*.state.pt"))) < 2:
        pass
    process.kill()
    process.wait()
    assert "resuming at epoch" in workshop.finish("joint_resumed", *given, "train.num_epochs=2")
    whole, resumed = workshop.weights("joint_whole"), workshop.weights("joint_resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # With one of several processes dropout falls elsewhere.
    names = "encoder.conformer.dropout", "predictor.dropout", "predictor.embedding_dropout"
    given += [f"model.{name}=0" for name in names]
    workshop.finish("joint_alone", *given, "train.num_epochs=2")
    assert "2 process(es)" in workshop.finish("joint_two", *given, "train.num_epochs=2", processes=2)
    alone, two = workshop.weights("joint_alone"), workshop.weights("joint_two")
    assert all(torch.allclose(alone[name], two[name], atol=3e-4) for name in alone)


def test_settings_that_do_not_fit_are_named(configured: Callable[..., Config], workshop: Workshop) -> None:
    for changed, message in (
        ({"unlabelled_dir": ""}, "needs bl_just.unlabelled_dir"),
        ({"batch_seconds": 1.0}, "more than bl_just.batch_seconds=1"),
        ({"best_rq": BEST_RQ | {"projection": "pca", "codebook_dim": 100}}, "lower codebook_dim"),
        ({"unlabelled_dir": "/nowhere"}, "is missing"),
    ):
        with pytest.raises(UserError, match=message):
            run_training(configured(**changed), workshop.data_dir, workshop.folder / "refused")


def test_the_frames_of_principal_components_are_those_of_the_speech(
    configured: Callable[..., Config], workshop: Workshop
) -> None:
    exp = workshop.folder / "pca"
    config = configured({"num_epochs": 1}, best_rq=BEST_RQ | {"projection": "pca"}, exploration=0.5)
    run_training(config, workshop.data_dir, exp)
    weights = load_file(exp / "checkpoints" / "epoch-0001.safetensors")
    projection = weights["objective.unsupervised.quantizer.projection"]
    gram = projection.T @ projection
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-4)  # directions at right angles


def test_training_says_whether_labels_can_be_predicted(
    configured: Callable[..., Config], workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Smooth labels by one principal component, and all but random ones by forty-eight."""
    found = {}
    for dim in (1, 48):
        settings = BEST_RQ | {"projection": "pca", "codebook_dim": dim, "codebook_size": 16}
        config = configured({"num_epochs": 1}, best_rq=settings, exploration=0.0, max_gamma=0.0)
        run_training(config, workshop.data_dir, workshop.folder / f"labels_{dim}")
        printed = capsys.readouterr().err
        line = re.search(r"labels: ([\d.]+) nats given the label before, ([\d.]+) by frequency, 2.77 if", printed)
        assert line
        found[dim] = float(line[1]) / float(line[2])
        assert ("lower bl_just.best_rq.codebook_dim" in printed) == (dim == 48), found
    assert found[1] < 0.8 and found[48] > 0.94


def test_exploration_begins_when_it_should(
    configured: Callable[..., Config], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[BilevelTask] = []
    monkeypatch.setattr(Loop, "run", lambda loop: tasks.append(loop.task))
    stages = {"pretraining_epochs": 1, "pretraining_schedule": SLOW, "exploration_from_epoch": 2}
    run_training(configured({"num_epochs": 3}, **stages), workshop.data_dir, workshop.folder / "from_epoch")
    (task,) = tasks
    explored = [sum(step.phase.name == EXPLORATION for step in task.plan(epoch)) for epoch in (1, 2, 3, 4)]
    assert explored[1] == 0 < explored[0] == explored[2] == explored[3]


def test_each_pass_through_the_unlabelled_speech_draws_other_masks() -> None:
    seconds, tokens = np.linspace(1, 3, 9), np.zeros(9, np.int32)
    budget = BatchBudget(6.0, 10**9, 1, vocab_size=2, frame_shift_s=0.04)
    explored = plan_epoch(seconds, tokens, budget, seed=1, epoch=1)
    steps = JointSteps(explored, 3 * len(explored), None, explored, Phase(EXPLORATION), np.ones(0))
    rows = [tuple(row) for step in steps for part in step.parts for row in part.unlabelled.tolist()]
    assert sorted(rows) == [(number, draw) for number in range(9) for draw in range(3)]


@pytest.mark.parametrize("loss", ["best_rq", "cpc"])
def test_an_update_is_the_same_however_it_is_dealt(
    loss: str, configured: Callable[..., Config], workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of a joint update in one part, in three, and in more than there are utterances."""
    tasks: list[BilevelTask] = []
    monkeypatch.setattr(Loop, "run", lambda loop: tasks.append(loop.task))
    found: list[dict[str, torch.Tensor]] = []
    for parts in (1, 3, 40):
        given = {"cpc": {"window_frames": 24, "num_steps": 2, "dim": 8}} if loss == "cpc" else {}
        train = {"num_epochs": 2, "accumulation_steps": parts, "num_buckets": 1}
        config = configured(train, loss=loss, gamma_schedule="constant", max_gamma=0.5, **given)
        run_training(config, workshop.data_dir, workshop.folder / f"dealt_{loss}_{parts}")
        task = tasks[-1]
        task.module.eval().zero_grad(set_to_none=True)
        step = next(step for step in task.plan(1) if step.phase.penalty)
        own = OwnParts([step], AllReduce(), [0])
        (batches,) = task.batches(own, 1)
        assert isinstance(batches, list) and len(batches) == parts
        g = 0
        for batch in batches:
            losses = task.module(batch, step.phase)
            (losses.total / step.number).backward()
            g += losses.parts[G].number
        assert g == len({row for part in step.parts if part.counts[1] for row in part.unlabelled[:, 0].tolist()})
        found.append({n: p.grad.clone() for n, p in task.module.named_parameters() if p.grad is not None})
    for others in found[1:] if loss == "best_rq" else ():  # CPC's negatives are those of its part
        for name, value in found[0].items():
            assert torch.allclose(others[name], value, atol=2e-5), name


def test_a_supervised_model_starts_a_bilevel_training_and_the_reverse(
    configured: Callable[..., Config], workshop: Workshop
) -> None:
    plain, joint = workshop.folder / "plain_start", workshop.folder / "joint_start"
    run_training(workshop.config(num_epochs=1), workshop.data_dir, plain)
    start = {"init_from": str(plain / "averaged.safetensors"), "num_epochs": 1}
    still = {"peak_lr": 0.0, "initial_lr": 0.0}
    run_training(configured(start | {"schedule": still}), workshop.data_dir, joint)
    first, second = (load_file(folder / "checkpoints" / "epoch-0001.safetensors") for folder in (plain, joint))
    head = "ctc_head.weight"
    assert torch.equal(first[f"objective.{head}"], second[f"objective.supervised.{head}"])
    back = {"init_from": str(joint / "averaged.safetensors"), "num_epochs": 1, "schedule": still}
    run_training(workshop.config(**back), workshop.data_dir, workshop.folder / "plain_again")
    third = load_file(workshop.folder / "plain_again" / "checkpoints" / "epoch-0001.safetensors")
    assert torch.equal(third[f"objective.{head}"], first[f"objective.{head}"])


def test_other_stages_need_another_folder(
    configured: Callable[..., Config], workshop: Workshop, unlabelled: Path
) -> None:
    exp = workshop.folder / "longer"
    run_training(configured({"num_epochs": 1}), workshop.data_dir, exp)
    with pytest.raises(UserError, match=r"train\.num_epochs=1, now it is 2"):
        run_training(configured({"num_epochs": 2}), workshop.data_dir, exp)
    with pytest.raises(UserError, match="early_stop_epochs"):
        run_training(configured({"early_stop_epochs": 2}), workshop.data_dir, workshop.folder / "early")
