"""Learning rate as a function of the epoch."""

from __future__ import annotations

import math

from asrkit.config_training import ScheduleConfig


def warmup_hold_anneal(
    epoch: int, *, initial_lr: float, peak_lr: float, warmup_epochs: float, hold_epochs: float
) -> float:
    """Linear warm-up, hold, then 1/sqrt(2) per epoch (Cui et al. 2022, arXiv 2203.15176, section 4).

    With 1e-4, 1e-3, 9 and 7 (the paper's): 1e-4 in epoch 1, 1e-3 in epochs 10 to 16, 7.07e-4 in epoch 17.

    Args:
        epoch: from 1; the rate is constant within an epoch.
        initial_lr: in epoch 1.
        peak_lr: after the warm-up.
        warmup_epochs: epochs from the initial rate to the peak.
        hold_epochs: epochs at the peak, including the first.
    """
    if epoch - 1 < warmup_epochs:
        return initial_lr + (peak_lr - initial_lr) * (epoch - 1) / warmup_epochs
    annealed = max(0.0, epoch - (warmup_epochs + hold_epochs))
    result: float = peak_lr * math.sqrt(0.5) ** annealed
    return result


def warmup_hold_decay(
    epochs_done: float,
    *,
    initial_lr: float,
    peak_lr: float,
    warmup_epochs: float,
    hold_epochs: float,
    num_epochs: float,
) -> float:
    """Linear rise to the peak, hold, then linear fall to 0.

    Without a hold it is the schedule of Saon et al. 2023 (arXiv 2302.14120, section 3).

    Args:
        epochs_done: epochs done, including fractions.
        initial_lr: at the start.
        peak_lr: after ``warmup_epochs``.
        warmup_epochs: length of the rise.
        hold_epochs: length of the plateau.
        num_epochs: when 0 is reached.
    """
    if epochs_done < warmup_epochs:
        return initial_lr + (peak_lr - initial_lr) * epochs_done / warmup_epochs
    falling = max(1e-9, num_epochs - warmup_epochs - hold_epochs)
    return min(peak_lr, peak_lr * max(0.0, num_epochs - epochs_done) / falling)


def learning_rate_by_updates(
    schedule: ScheduleConfig, epoch: int, fraction: float, num_epochs: int, share: float
) -> float:
    """The rate if epochs see a share of the examples: that of training on all after as many updates."""
    done = (epoch - 1 + fraction) * share
    return learning_rate(schedule, int(done) + 1, done - int(done), num_epochs * share)


def learning_rate(schedule: ScheduleConfig, epoch: int, fraction: float, num_epochs: float) -> float:
    """The rate after ``fraction`` of ``epoch`` (from 1).

    The boost is that of the last, clean epochs of Cui et al. 2022 (arXiv 2203.15176, section 4).
    """
    boost = schedule.boost if 0 < schedule.boost_from_epoch <= epoch else 1.0
    if schedule.type in ("one_cycle", "warmup_hold_decay"):
        return boost * warmup_hold_decay(
            epoch - 1 + fraction,
            initial_lr=schedule.initial_lr,
            peak_lr=schedule.peak_lr,
            warmup_epochs=schedule.warmup_epochs,
            hold_epochs=schedule.hold_epochs if schedule.type == "warmup_hold_decay" else 0.0,
            num_epochs=num_epochs,
        )
    return boost * warmup_hold_anneal(
        epoch,
        initial_lr=schedule.initial_lr,
        peak_lr=schedule.peak_lr,
        warmup_epochs=schedule.warmup_epochs,
        hold_epochs=schedule.hold_epochs,
    )
