from __future__ import annotations

import numpy as np
import pytest
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.testing.dummies import dummy_recording

from asrkit.data.batching import BatchBudget, EpochPlan, inference_batches, occurrences, plan_epoch
from asrkit.errors import UserError

SECONDS = np.array([1.0 + (i * 37 % 100) / 20 for i in range(100)])
TOKENS = 1 + (SECONDS * 3).astype(np.int32)


def budget(parts: int = 1, batch_seconds: float = 30.0, lattice_budget: int = 10**9) -> BatchBudget:
    return BatchBudget(batch_seconds, lattice_budget, parts, vocab_size=50, frame_shift_s=0.04)


def numbers(plan: EpochPlan) -> list[list[list[int]]]:
    return [[part[:, 0].tolist() for part in plan[step]] for step in range(len(plan))]


def needs(limit: BatchBudget, part: list[int], tokens: np.ndarray = TOKENS, seconds: np.ndarray = SECONDS) -> int:
    return int(limit.lattice(np.array(len(part)), seconds[part].max(), tokens[part].max()))


def test_every_utterance_comes_once_and_updates_keep_the_budget() -> None:
    plan = plan_epoch(SECONDS, TOKENS, budget(), seed=1, epoch=1)
    assert sorted(n for (part,) in numbers(plan) for n in part) == list(range(100))
    for (part,) in numbers(plan):
        assert len(part) * SECONDS[part].max() <= 30.0
    assert not plan.rows[:, 1].any()


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    first = numbers(plan_epoch(SECONDS, TOKENS, budget(), seed=1, epoch=1))
    assert first == numbers(plan_epoch(SECONDS, TOKENS, budget(), seed=1, epoch=1))
    assert first != numbers(plan_epoch(SECONDS, TOKENS, budget(), seed=1, epoch=2))
    assert first != numbers(plan_epoch(SECONDS, TOKENS, budget(), seed=2, epoch=1))


def test_updates_mix_differently_from_epoch_to_epoch() -> None:
    """Utterances that share an update in one epoch mostly do not in the next."""
    rng = np.random.default_rng(0)
    seconds = rng.uniform(2, 12, 3000)
    together = []
    for epoch in (1, 2):
        plan = plan_epoch(seconds, TOKENS[:1].repeat(3000), budget(batch_seconds=200), seed=1, epoch=epoch)
        pairs = {(a, b) for (part,) in numbers(plan) for a in part for b in part if a < b}
        together.append(pairs)
    # A tenth would, if the updates of a bucket were drawn without sorting.
    assert len(together[0] & together[1]) < 0.2 * len(together[0])


def test_parts_share_the_updates_that_one_process_makes() -> None:
    whole = numbers(plan_epoch(SECONDS, TOKENS, budget(1), seed=1, epoch=1))
    split = numbers(plan_epoch(SECONDS, TOKENS, budget(3), seed=1, epoch=1))
    assert len(whole) == len(split)
    for (everything,), parts in zip(whole, split, strict=True):
        assert len(parts) == 3
        assert sorted(everything) == sorted(n for part in parts for n in part)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_lattice_budget_bounds_each_part() -> None:
    limit = budget(2, batch_seconds=1000, lattice_budget=200_000)
    for update in numbers(plan_epoch(SECONDS, TOKENS, limit, seed=1, epoch=1)):
        for part in filter(None, update):
            assert needs(limit, part) <= 200_000


def test_the_lattice_budget_holds_where_lengths_rise_by_steps() -> None:
    seconds = np.array([1.0 + 8.0 * (i % 7 == 6) for i in range(140)])
    tokens = (3 * seconds).astype(np.int32)
    limit = budget(2, batch_seconds=1000, lattice_budget=400_000)
    plan = numbers(plan_epoch(seconds, tokens, limit, seed=1, epoch=1, num_buckets=1))
    assert sorted(n for update in plan for part in update for n in part) == list(range(140))
    for update in plan:
        for part in filter(None, update):
            assert needs(limit, part, tokens, seconds) <= 400_000


@pytest.mark.parametrize(
    ("limit", "setting"),
    [(budget(batch_seconds=2.0), "train.batch_seconds=2"), (budget(lattice_budget=1000), "train.lattice_budget=1000")],
)
def test_an_utterance_that_fits_no_batch_names_the_setting(limit: BatchBudget, setting: str) -> None:
    cuts = [
        MonoCut(id=f"u{i:03d}", start=0, duration=s, channel=0, recording=dummy_recording(i, duration=10.0))
        for i, s in enumerate(SECONDS)
    ]
    with pytest.raises(UserError, match=setting) as raised:
        limit.require_fit(SECONDS, TOKENS, cuts.__getitem__)
    assert str(raised.value).startswith(f"u{SECONDS.argmax():03d}")


def test_inference_batches_hold_everything_once() -> None:
    batches = inference_batches(SECONDS, 20.0)
    assert sorted(n for batch in batches for n in batch[:, 0].tolist()) == list(range(100))
    assert all(len(batch) * SECONDS[batch[:, 0]].max() <= 20.0 for batch in batches)


def test_the_lattice_counts_growth_and_pruning() -> None:
    def entries(limit: BatchBudget, tokens: int) -> int:
        return int(limit.lattice(np.array(2), np.array(4.0), np.array(tokens)))

    assert entries(BatchBudget(30.0, 10**9, 1, vocab_size=50, frame_shift_s=0.04), 9) == 2 * 101 * 10 * 50
    longer = BatchBudget(30.0, 10**9, 1, vocab_size=50, frame_shift_s=0.04, growth=1.3)
    assert entries(longer, 9) == 2 * 131 * 10 * 50
    pruned = BatchBudget(30.0, 10**9, 1, vocab_size=50, frame_shift_s=0.04, prune_range=5)
    assert entries(pruned, 9) == 2 * 101 * 5 * 50 and entries(pruned, 2) == 2 * 101 * 3 * 50


@pytest.mark.parametrize(("number", "buckets"), [(1, 10), (3, 10), (20, 1)])
def test_few_utterances_or_one_bucket(number: int, buckets: int) -> None:
    plan = plan_epoch(SECONDS[:number], TOKENS[:number], budget(), seed=1, epoch=1, num_buckets=buckets)
    assert sorted(n for (part,) in numbers(plan) for n in part) == list(range(number))


def test_drawn_utterances_and_how_often_they_came_before() -> None:
    drawn = np.array([7, 3, 7, 7, 50, 3])
    plan = plan_epoch(SECONDS, TOKENS, budget(), seed=1, epoch=1, drawn=drawn)
    rows = sorted(tuple(row) for step in range(len(plan)) for part in plan[step] for row in part.tolist())
    assert rows == [(3, 0), (3, 1), (7, 0), (7, 1), (7, 2), (50, 0)]
    assert occurrences(drawn).tolist() == [0, 0, 1, 2, 0, 1]
    with pytest.raises(UserError, match="no utterances"):
        plan_epoch(SECONDS, TOKENS, budget(), seed=1, epoch=1, drawn=np.zeros(0, np.int64))


@pytest.mark.parametrize("number", [300, 5000, 20000])
def test_padding_is_no_more_than_of_lhotses_sampler(number: int) -> None:
    """Lengths as of read speech; 5,000 and 20,000 utterances are cut in one lane and in several."""
    rng = np.random.default_rng(number)
    seconds = np.clip(rng.gamma(6.0, 1.5, number), 1.0, 25.0)
    cuts: list[Cut] = [
        MonoCut(id=str(i), start=0, duration=s, channel=0, recording=dummy_recording(0, duration=30.0))
        for i, s in enumerate(seconds.tolist())
    ]
    plan = plan_epoch(seconds, TOKENS[:1].repeat(number), budget(batch_seconds=120), seed=1, epoch=1)
    sampler = DynamicBucketingSampler(CutSet.from_cuts(cuts), max_duration=120, num_buckets=10, shuffle=True, seed=0)
    batches = [[cut.duration for cut in batch] for batch in sampler]
    padded = sum(len(batch) * max(batch) for batch in batches)
    assert plan.padding_share() <= 1 - seconds.sum() / padded
    assert len(plan) <= 1.05 * len(batches) + 1
