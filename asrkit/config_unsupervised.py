"""Settings of training with speech without transcripts: BL-JUST, its losses and its baselines."""

from __future__ import annotations

from dataclasses import dataclass

from asrkit.config_training import ScheduleConfig
from asrkit.settings import section, setting

ON = "bl_just.loss=best_rq|cpc"


@dataclass
class BestRqConfig:
    """Masked prediction of random labels (Chiu et al. 2022, arXiv 2202.01855)."""

    mask_probability: float = setting(0.02, "Share of the input frames at which a masked span begins.", least=0, most=1)
    mask_span: int = setting(20, "Input frames of a span.", least=1, most=100000)
    noise_std: float = setting(0.1, "Deviation of the noise that replaces masked frames.", least=0, most=1000)
    codebook_size: int = setting(128, "Labels of a codebook.", least=2, most=1000000)
    codebook_dim: int = setting(16, "Width of the projection.", least=1, most=65536)
    num_codebooks: int = setting(1, "Codebooks, each predicted by its own output.", least=1, most=1024)
    projection: str = setting(
        "random",
        "Projection of the input onto `codebook_dim`: random, or the principal components of the unlabelled speech "
        "(arXiv 2606.30671).",
        choices=("random", "pca"),
    )
    align_from: str = setting(
        "",
        "A recognizer whose inner block gives the labels instead of the input: re-alignment after a first "
        "round (Cui et al. 2024, arXiv 2412.08548).",
    )
    align_block: int = setting(7, "Number of the inner block, from 1.", least=1, most=1000)


@dataclass
class CpcConfig:
    """Contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748).

    The encoder sees only a window of speech and predicts the frames after it, so that encoders with future context
    cannot copy them.
    """

    window_frames: int = setting(96, "Input frames of a window.", least=1, most=100000)
    num_steps: int = setting(8, "Encoder frames after the window that are predicted.", least=1, most=1000)
    dim: int = setting(64, "Width of predictions and targets.", least=1, most=65536)
    temperature: float = setting(0.1, "Temperature of the similarities.", least=1e-3, most=1000)


@dataclass
class BlJustConfig:
    """Bilevel joint unsupervised and supervised training (Cui et al. 2024, arXiv 2412.08548).

    A constant γ without exploration gives JUST, γ = 0 gives alternating optimization, only pre-training gives PT + FT,
    and none of these is supervised training.
    """

    loss: str = setting(
        "none",
        "The unsupervised loss g; `none` trains only on transcribed speech.",
        choices=("none", "best_rq", "cpc"),
    )
    unlabelled_dir: str = setting(
        "", "Prepared data, whose training set is used without its transcripts.", only_with=ON
    )
    batch_seconds: float = setting(300.0, "Padded seconds of unlabelled speech in an update.", least=0.01, only_with=ON)
    max_gamma: float = setting(
        0.2,
        "γ_max, weight of g relative to the supervised loss f per label; 0 leaves g to exploration.",
        least=0,
        most=1000,
        only_with=ON,
    )
    gamma_schedule: str = setting(
        "ramp",
        "γ_k = (k − 1) γ_max / K in epoch k of K, or γ_max throughout.",
        choices=("ramp", "constant"),
        only_with=ON,
    )
    exploration: float = setting(
        1.0,
        "Share of the unlabelled speech that each epoch passes through before its joint updates.",
        least=0,
        most=100,
        only_with=ON,
    )
    exploration_from_epoch: int = setting(
        1,
        "First epoch on labelled speech that explores. On little speech, exploration can keep CTC from aligning.",
        least=1,
        most=1000000,
        only_with=ON,
    )
    exploration_lr_scale: float = setting(
        1.0, "ρ/α, factor on the learning rate of these updates.", least=0, most=1000, only_with=ON
    )
    pretraining_epochs: int = setting(
        0, "Epochs on unlabelled speech alone, before `train.num_epochs`.", least=0, most=1000000, only_with=ON
    )
    pretraining_schedule: ScheduleConfig = section(ScheduleConfig, only_with="bl_just.pretraining_epochs>0")
    fine_tuning_epochs: int = setting(
        0, "Epochs on labelled speech alone, after `train.num_epochs`.", least=0, most=1000000, only_with=ON
    )
    fine_tuning_schedule: ScheduleConfig = section(ScheduleConfig, only_with="bl_just.fine_tuning_epochs>0")
    best_rq: BestRqConfig = section(BestRqConfig, only_with="bl_just.loss=best_rq")
    cpc: CpcConfig = section(CpcConfig, only_with="bl_just.loss=cpc")
