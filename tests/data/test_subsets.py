from __future__ import annotations

import torch

from asrkit.data.subsets import fixed_subset, highest_scores, repeated_subset


def test_other_draws() -> None:
    first, second = repeated_subset(1000, 0.2, 1, 1), repeated_subset(1000, 0.2, 1, 2)
    assert len(first.unique()) == len(first) == 200
    assert not torch.equal(first.sort().values, second.sort().values)
    assert torch.equal(fixed_subset(1000, 0.2, 4), fixed_subset(1000, 0.2, 4))
    assert sorted(highest_scores(torch.tensor([0.1, 0.9, 0.3, 0.8]), 0.5).tolist()) == [1, 3]
