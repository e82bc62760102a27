"""Training on a part of the utterances (Cui et al. 2023, arXiv 2311.12727)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from lhotse import CutSet

from asrkit.config_training import MixedSetConfig, SamplingConfig, ScheduleConfig, TrainConfig
from asrkit.data.feature_store import make_features
from asrkit.data.folder import DataFolder
from asrkit.data.index import CutIndex, open_index
from asrkit.data.soft_random_sampling import expected_coverage, soft_random_sample
from asrkit.errors import UserError
from asrkit.scoring.experiment import read_metrics
from asrkit.training.run import run_training
from asrkit.training.sampling import Occupancy, make_sampler
from asrkit.training.schedules import learning_rate, learning_rate_by_updates
from tests.conftest import Workshop

DRAWN = "train.sampling.type=soft_random", "train.sampling.rate=0.5"


def index_of(number: int, sources: np.ndarray | None = None) -> CutIndex:
    """An index of that many utterances, which cannot be read."""
    return CutIndex([], {"durations_s": np.ones(number)}, sources=sources)


@pytest.mark.parametrize("kind", ["soft_random", "repeated_subset", "fixed_subset"])
def test_occupancy_is_as_expected(kind: str) -> None:
    config = SamplingConfig(type=kind, rate=0.3)
    sampler = make_sampler(TrainConfig(sampling=config), index_of(20_000))
    assert sampler is not None and make_sampler(TrainConfig(), index_of(20_000)) is None
    occupancy = Occupancy(sampler, 20_000)
    for epoch in (1, 2, 7):
        values = occupancy.after(epoch, config)
        assert values["coverage"] == pytest.approx(values["expected_coverage"], abs=0.01)
        assert values["presentations"] == pytest.approx(0.3 * epoch)
        assert values["presentations_variance"] == pytest.approx(values["expected_variance"], rel=0.05)
    again = Occupancy(sampler, 20_000)
    again.after(7, config)  # as a resumed run
    assert np.array_equal(again.presented, occupancy.presented)
    again.after(2, config)
    assert again.presented.sum() == 12_000
    later = Occupancy(sampler, 20_000, first=5)  # five epochs saw none of them
    assert later.after(0, config)["presentations"] == 0
    assert later.after(7, config)["presentations"] == pytest.approx(0.6)


def test_the_loop_presents_what_was_drawn_and_says_how_much_was_seen(workshop: Workshop) -> None:
    exp = workshop.folder / "drawn"
    config = workshop.config(sampling={"type": "soft_random", "rate": 0.5})
    run_training(config, workshop.data_dir, exp)
    seen = np.zeros(24, bool)
    for line in read_metrics(exp / "metrics.jsonl"):
        assert line["utterances"] == 12
        seen[soft_random_sample(24, 0.5, config.train.seed, line["epoch"]).numpy()] = True
        assert line["sampling"]["coverage"] == pytest.approx(seen.mean(), abs=1e-4)
        assert line["sampling"]["expected_coverage"] == pytest.approx(
            expected_coverage(24, 0.5, line["epoch"]), abs=1e-4
        )


def test_a_resumed_run_and_two_processes_draw_alike(workshop: Workshop) -> None:
    workshop.finish("drawn_unbroken", *DRAWN)
    workshop.finish("drawn_resumed", *DRAWN, "train.num_epochs=1")
    assert "% expected)" in workshop.finish("drawn_resumed", *DRAWN)
    whole, resumed = workshop.weights("drawn_unbroken"), workshop.weights("drawn_resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    dropouts = "encoder.conformer.dropout", "predictor.dropout", "predictor.embedding_dropout"
    without_dropout = [f"model.{name}=0" for name in dropouts]
    workshop.finish("drawn_alone", *DRAWN, *without_dropout)
    workshop.finish("drawn_shared", *DRAWN, *without_dropout, processes=2)
    alone, shared = workshop.weights("drawn_alone"), workshop.weights("drawn_shared")
    assert all(torch.allclose(alone[name], shared[name], atol=2e-4) for name in alone)


def test_rates_by_epochs_and_by_updates() -> None:
    """Rise and fall over the whole training coincide; a hold in epochs of all examples lasts 1/r as many."""
    rising = ScheduleConfig(type="one_cycle", peak_lr=1e-3, warmup_epochs=0)
    for epoch in (1, 4, 10):
        by_updates = learning_rate_by_updates(rising, epoch, 0.5, 10, 0.3)
        assert by_updates == pytest.approx(learning_rate(rising, epoch, 0.5, 10))
    holding = ScheduleConfig(type="warmup_hold_decay", initial_lr=0, peak_lr=1e-3, warmup_epochs=1.5, hold_epochs=0)
    assert learning_rate_by_updates(holding, 6, 0.0, 30, 0.3) == pytest.approx(1e-3)
    assert learning_rate_by_updates(holding, 31, 0.0, 30, 0.3) == pytest.approx(0.0)


def test_sets_are_mixed_by_their_weights() -> None:
    sources = np.repeat([0, 1, 2], [50, 40, 30])
    config = TrainConfig(mix={"twice": MixedSetConfig("a", 2.0), "half": MixedSetConfig("b", 0.5)})
    sampler = make_sampler(config, index_of(120, sources))
    assert sampler is not None
    epochs = [np.bincount(sampler(120, epoch), minlength=120) for epoch in (1, 2)]
    for presented in epochs:
        assert (presented[:50] == 1).all() and (presented[50:90] == 2).all()
        assert presented[90:].sum() == 15 and presented[90:].max() == 1
    assert not np.array_equal(epochs[0], epochs[1]) and np.array_equal(
        epochs[0], np.bincount(sampler(120, 1), minlength=120)
    )
    with pytest.raises(UserError, match="exclude each other"):
        make_sampler(replace(config, sampling=SamplingConfig(type="soft_random", rate=0.5)), index_of(120, sources))


def test_a_second_set_is_trained_on(workshop: Workshop, an4_cuts: CutSet) -> None:
    other = DataFolder(workshop.folder / "second_set")
    cuts = CutSet.from_cuts(list(an4_cuts)[30:40])
    make_features(cuts, "train", other, sampling_rate_hz=16000, num_mel_bins=16, speed_factors=[1.0], store=False)
    other.save_statistics(DataFolder(workshop.data_dir).load_statistics())
    exp = workshop.folder / "mixed"
    config = workshop.config(num_epochs=1, mix={"second": {"data_dir": str(other.path), "weight": 1.5}})
    run_training(config, workshop.data_dir, exp)
    assert read_metrics(exp / "metrics.jsonl")[0]["utterances"] == 24 + 15
    same = workshop.config(num_epochs=1, mix={"second": {"data_dir": str(workshop.data_dir)}})
    with pytest.raises(UserError, match="both have an utterance"):
        run_training(same, workshop.data_dir, workshop.folder / "mixed_twice")


def test_the_utterances_with_the_highest_scores_are_trained_on(workshop: Workshop) -> None:
    index = open_index(DataFolder(workshop.data_dir), "train", DataFolder(workshop.data_dir).load_tokenizer())
    ids = [cut.id for cut in index]
    path = workshop.folder / "scores.jsonl"
    rows = [{"id": id, "el2n": float(n % 5), "grand": float(-n)} for n, id in enumerate(ids)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SamplingConfig(type="highest_scores", rate=0.25, scores=str(path), score="grand")
    sampler = make_sampler(TrainConfig(sampling=config), index)
    assert sampler is not None and sorted(sampler(24, 1)) == sorted(sampler(24, 2)) == list(range(6))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(UserError, match=f"no score of {ids[0]}"):
        make_sampler(TrainConfig(sampling=config), index)
    path.write_text("nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        make_sampler(TrainConfig(sampling=config), index)
