from __future__ import annotations

import pytest
from lhotse import CutSet, MonoCut
from lhotse.testing.dummies import dummy_recording

from asrkit.data.batching import BatchBudget, inference_batches, plan_epoch
from asrkit.errors import UserError

CUTS = [
    MonoCut(
        id=f"u{i:03d}",
        start=0,
        duration=1.0 + (i * 37 % 100) / 20,
        channel=0,
        recording=dummy_recording(i, duration=10.0),
    )
    for i in range(100)
]
NUM_TOKENS = {cut.id: 1 + int(cut.duration * 3) for cut in CUTS}


def budget(parts: int = 1, batch_seconds: float = 30.0, lattice_budget: int = 10**9) -> BatchBudget:
    return BatchBudget(batch_seconds, lattice_budget, parts, vocab_size=50, frame_shift_s=0.04)


def ids(plan: list[list[list[MonoCut]]]) -> list[list[list[str]]]:
    return [[[cut.id for cut in part] for part in update] for update in plan]


def test_every_utterance_comes_once_and_updates_keep_the_budget() -> None:
    plan = plan_epoch(CUTS, NUM_TOKENS, budget(), seed=1, epoch=1)
    assert sorted(id for update in ids(plan) for part in update for id in part) == sorted(NUM_TOKENS)
    for (part,) in plan:
        assert len(part) * max(cut.duration for cut in part) <= 30.0


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    first = ids(plan_epoch(CUTS, NUM_TOKENS, budget(), seed=1, epoch=1))
    assert first == ids(plan_epoch(CUTS, NUM_TOKENS, budget(), seed=1, epoch=1))
    assert first != ids(plan_epoch(CUTS, NUM_TOKENS, budget(), seed=1, epoch=2))
    assert first != ids(plan_epoch(CUTS, NUM_TOKENS, budget(), seed=2, epoch=1))


def test_parts_share_the_updates_that_one_process_makes() -> None:
    whole = plan_epoch(CUTS, NUM_TOKENS, budget(1), seed=1, epoch=1)
    split = plan_epoch(CUTS, NUM_TOKENS, budget(3), seed=1, epoch=1)
    assert len(whole) == len(split)
    for (everything,), parts in zip(ids(whole), ids(split), strict=True):
        assert len(parts) == 3
        assert sorted(everything) == sorted(id for part in parts for id in part)


def test_the_lattice_budget_bounds_each_part() -> None:
    limit = budget(2, batch_seconds=1000, lattice_budget=200_000)
    plan = plan_epoch(CUTS, NUM_TOKENS, limit, seed=1, epoch=1)
    for update in plan:
        for part in update:
            if part:
                longest, most = max(c.duration for c in part), max(NUM_TOKENS[c.id] for c in part)
                assert limit.lattice(len(part), longest, most) <= 200_000


@pytest.mark.parametrize(
    ("limit", "setting"),
    [(budget(batch_seconds=2.0), "train.batch_seconds=2"), (budget(lattice_budget=1000), "train.lattice_budget=1000")],
)
def test_an_utterance_that_fits_no_batch_names_the_setting(limit: BatchBudget, setting: str) -> None:
    with pytest.raises(UserError, match=setting):
        plan_epoch(CUTS, NUM_TOKENS, limit, seed=1, epoch=1)


def test_inference_batches_hold_everything_once() -> None:
    batches = inference_batches(list(CutSet.from_cuts(CUTS)), 20.0)
    assert sorted(c.id for b in batches for c in b) == sorted(NUM_TOKENS)
    assert all(len(b) * max(c.duration for c in b) <= 20.0 for b in batches)


def test_the_lattice_counts_growth_and_pruning() -> None:
    plain = BatchBudget(30.0, 10**9, 1, vocab_size=50, frame_shift_s=0.04)
    assert plain.lattice(2, 4.0, 9) == 2 * 101 * 10 * 50
    longer = BatchBudget(30.0, 10**9, 1, vocab_size=50, frame_shift_s=0.04, growth=1.3)
    assert longer.lattice(2, 4.0, 9) == 2 * 131 * 10 * 50
    pruned = BatchBudget(30.0, 10**9, 1, vocab_size=50, frame_shift_s=0.04, prune_range=5)
    assert pruned.lattice(2, 4.0, 9) == 2 * 101 * 5 * 50 and pruned.lattice(2, 4.0, 2) == 2 * 101 * 3 * 50


def test_an_update_that_the_sampler_overfills_is_halved() -> None:
    """Durations that rise by steps: the sampler sees the longer utterance only once it is in."""
    cuts = [MonoCut(id=f"v{i}", start=0, duration=1.0 + 8.0 * (i % 7 == 6), channel=0) for i in range(140)]
    labels = {cut.id: int(3 * cut.duration) for cut in cuts}
    limit = budget(2, batch_seconds=1000, lattice_budget=400_000)
    plan = plan_epoch(cuts, labels, limit, seed=1, epoch=1, num_buckets=1)
    assert sorted(id for update in ids(plan) for part in update for id in part) == sorted(labels)
    for update in plan:
        for part in filter(None, update):
            longest, most = max(c.duration for c in part), max(labels[c.id] for c in part)
            assert limit.lattice(len(part), longest, most) <= 400_000


@pytest.mark.parametrize(("number", "buckets"), [(1, 10), (3, 10), (20, 1)])
def test_few_utterances_or_one_bucket(number: int, buckets: int) -> None:
    plan = plan_epoch(CUTS[:number], NUM_TOKENS, budget(), seed=1, epoch=1, num_buckets=buckets)
    assert sorted(id for update in ids(plan) for part in update for id in part) == [c.id for c in CUTS[:number]]
    assert ids(plan) == ids(plan_epoch(CUTS[:number], NUM_TOKENS, budget(), seed=1, epoch=1, num_buckets=buckets))
