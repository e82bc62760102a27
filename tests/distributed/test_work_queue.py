"""Work that learners take as they get to it."""

from __future__ import annotations

import torch.distributed as dist

from asrkit.distributed.work_queue import Claim, WorkQueue, in_order


def queues(learners: int) -> list[WorkQueue]:
    """Of learners that share a store."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    return [WorkQueue(store, learner, learners) for learner in range(learners)]


def test_order() -> None:
    for learner in range(3):
        order = in_order(range(12), learner, 3)
        assert sorted(order) == list(range(12))
        assert order[:4] == [learner, learner + 3, learner + 6, learner + 9]
    helping = [in_order(range(30), learner, 3)[10:13] for learner in (0, 1)]
    assert all(share >= 15 for shares in helping for share in shares)  # the last ones
    assert not set(helping[0]) & set(helping[1])


def test_each_share_is_done_once_and_a_fast_learner_does_more() -> None:
    fast, slow = queues(2)
    orders = [iter(queue.open(1, 0, 12)) for queue in (fast, slow)]
    done: list[list[int]] = [[], []]
    for turn in range(100):
        for who, queue in enumerate((fast, slow)):
            if who and turn % 5:
                continue
            for share in orders[who]:
                if queue.claim(share) is Claim.MINE:
                    done[who].append(share)
                    queue.finish()
                    break
    assert sorted(done[0] + done[1]) == list(range(12)) and len(done[0]) >= 9
    assert fast.claim(1) is Claim.NONE_LEFT
    assert fast.number_done() == 12 and not fast.open(1, 1, 12)
    assert len(fast.open(2, 0, 12)) == 12  # the next epoch


def test_the_share_of_a_learner_that_was_lost_is_done_by_another() -> None:
    first, second = queues(2)
    first.open(1, 0, 4)
    assert second.open(1, 0, 4) == [1, 3, 0, 2]
    assert second.claim(1) is Claim.MINE  # and is lost
    for share in (0, 2, 3):
        assert first.claim(share) is Claim.MINE
        first.finish()
    assert first.claim(1) is Claim.NONE_LEFT
    assert first.open(1, 1, 4) == [1]
    assert first.claim(1) is Claim.MINE


def test_what_a_checkpoint_says_is_done_is_not_done_again() -> None:
    first, second = queues(2)
    first.restore(3, [0, 1, 4])
    assert sorted(second.open(3, 0, 6)) == [2, 3, 5] and second.number_done() == 3
    assert first.done() == [0, 1, 4]


def test_who_joins_a_round_late_knows_how_much_there_is_of_it() -> None:
    first, late = queues(2)
    for share in first.open(1, 0, 6)[:2]:
        first.claim(share)
        first.finish()
    order = late.open(1, 0, 6)
    assert sorted(order) == [1, 3, 4, 5]
    assert [late.claim(share) for share in order] == [Claim.MINE] * 4
