"""The settings of the training loop, for speech and for text."""

from __future__ import annotations

from dataclasses import dataclass

from asrkit.settings import section, setting

SPEECH = "command=train"
"""Condition of the settings of ``train`` that language models do not read."""


@dataclass
class ScheduleConfig:
    """Learning rate by epoch."""

    type: str = setting(
        "warmup_hold_anneal",
        "Linear warm-up and hold, then a fall by 1/sqrt(2) per epoch (`anneal`) or linear to 0 (`decay`); `one_cycle` "
        "rises and falls without a hold.",
        choices=("warmup_hold_anneal", "warmup_hold_decay", "one_cycle"),
    )
    initial_lr: float = setting(1e-4, "Learning rate at the start.", least=0, most=1000)
    peak_lr: float = setting(1e-3, "Highest learning rate.", least=0, most=1000)
    warmup_epochs: float = setting(9, "Epochs from the initial rate to the peak.", least=0, most=1000000)
    hold_epochs: float = setting(
        7,
        "Epochs at the peak, the first one included.",
        least=0,
        most=1000000,
        only_with=".type=warmup_hold_anneal|warmup_hold_decay",
    )
    boost_from_epoch: int = setting(0, "From this epoch on the rate is multiplied by `boost`; 0 never.", least=0)
    boost: float = setting(2.0, "Factor of the last epochs.", least=0, most=1000)


@dataclass
class ParameterGroupConfig:
    """Parameters with their own learning rate and weight decay."""

    pattern: str = setting("", "Pattern of the parameters' names, with `*` for any part: `*.kernel.*`.")
    lr_scale: float = setting(1.0, "Factor on the learning rate.", least=0, most=1000)
    weight_decay: float = setting(0.0, "Replaces `train.weight_decay`.", least=0, most=1000)


A_PART = "train.sampling.type=soft_random|repeated_subset|fixed_subset|highest_scores"
SCORED = "train.sampling.type=highest_scores"


@dataclass
class SamplingConfig:
    """The choice of an epoch's utterances."""

    type: str = setting(
        "all",
        "`soft_random` draws them in each epoch, with replacement (Cui et al. 2023, arXiv 2311.12727), "
        "`repeated_subset` without (RS2); `fixed_subset` draws them once, `highest_scores` takes those with the "
        "highest scores.",
        choices=("all", "soft_random", "repeated_subset", "fixed_subset", "highest_scores"),
    )
    rate: float = setting(1.0, "r, share of the utterances that an epoch sees.", least=1e-9, most=1, only_with=A_PART)
    schedule_by: str = setting(
        "epochs",
        "Unit of the learning rate schedule; an epoch of all utterances has 1/r times as many updates.",
        choices=("epochs", "updates"),
        only_with=A_PART,
    )
    scores: str = setting("", "File from `asrkit utterance-scores`.", only_with=SCORED)
    score: str = setting(
        "el2n",
        "The score to use (Paul et al. 2021, arXiv 2107.07075).",
        choices=("el2n", "grand"),
        only_with=SCORED,
    )


@dataclass
class MixedSetConfig:
    """Another training set, in addition to that of ``--data-dir``."""

    data_dir: str = setting(
        "", "Prepared data with this training set; its transcripts are encoded with the experiment's symbols."
    )
    weight: float = setting(
        1.0,
        "How often an epoch presents each of its utterances: 2 twice, 0.5 every second one, redrawn each epoch.",
        least=0,
        most=1000,
    )


STATE_SPACES = "state_spaces"
"""Name of the group that holds W, Lambda and step of every state space."""


@dataclass
class OptimizerConfig:
    """The optimizer."""

    type: str = setting(
        "adamw",
        "Update rule. `muon` orthogonalizes the updates of the encoder's matrices and leaves the rest to AdamW.",
        choices=("adamw", "sgd", "muon"),
    )
    momentum: float = setting(
        0.9,
        "Fraction of the previous step that is carried over.",
        least=0,
        most=1,
        only_with="train.optimizer.type=sgd",
    )
    nesterov: bool = setting(
        False, "Nesterov's form of momentum.", only_with="train.optimizer.type=sgd and train.optimizer.momentum>0"
    )
    groups: dict[str, ParameterGroupConfig] = setting(
        {STATE_SPACES: ParameterGroupConfig(pattern="*.temporal.kernel.*")},
        "Parameter groups by name. A parameter belongs to the first group whose pattern it matches.",
    )


@dataclass
class TrainConfig:
    """The training loop."""

    seed: int = setting(1, "Seed of all random decisions.", least=0)
    num_epochs: int = setting(30, "Epochs.", least=1, most=1000000)
    init_from: str = setting("", "Start from the weights of this model file or checkpoint.")
    init_mismatch: str = setting(
        "error",
        "If weights differ from the model's in name or shape, `error` names them and stops, `report` names them and "
        "keeps their random initialization.",
        choices=("error", "report"),
    )
    batch_seconds: float = setting(
        300.0,
        "Padded seconds of speech in one update, over all processes and accumulation steps together.",
        least=0.01,
        only_with=SPEECH,
    )
    accumulation_steps: int = setting(1, "Forward passes of a process in one update.", least=1, most=1000000)
    lattice_budget: int = setting(
        100_000_000,
        "Most entries B·T'·U·V of the joiner's output in one forward pass of one process.",
        least=1,
        only_with=SPEECH,
    )
    num_buckets: int = setting(
        10, "Groups of similar duration, from which batches are drawn.", least=1, only_with=SPEECH
    )
    num_workers: int = setting(
        2, "Processes that load data; 0 loads in the training process.", least=0, most=1024, only_with=SPEECH
    )
    weight_decay: float = setting(1e-2, "Weight decay of parameters in no group.", least=0, most=1000)
    max_grad_norm: float = setting(5.0, "Gradients are clipped to this norm.", least=1e-9)
    autocast: str = setting(
        "none",
        "Precision of products; `auto` is bf16 if the processors of all processes support it.",
        choices=("auto", "none", "bf16", "fp16"),
    )
    device: str = setting("auto", "`auto` is CUDA if available.", choices=("auto", "cpu", "cuda"))
    checkpoint_every_steps: int = setting(
        500, "Steps between checkpoints within an epoch, in addition to the one at its end.", least=1
    )
    keep_every_epochs: int = setting(
        0, "Keep the weights of every Nth epoch; 0 keeps only the last ones and the best.", least=0
    )
    average_epochs: int = setting(
        5, "The final model is the mean of the weights of this many last epochs.", least=1, only_with=SPEECH
    )
    dev_wer_every_epochs: int = setting(1, "Epochs between two measurements of dev WER.", least=1, only_with=SPEECH)
    dev_measure: str = setting(
        "wer",
        "Measure that selects the best epoch and stops early: word errors, or character errors for languages without "
        "spaces; `frame_error`, the share of wrongly classified frames, is for `loss.frame_epochs=-1`.",
        choices=("wer", "cer", "frame_error"),
        only_with=SPEECH,
    )
    early_stop_epochs: int = setting(
        0, "Stop after this many measurements on dev without a better one; 0 never stops early.", least=0
    )
    parallel: str = setting(
        "ddp",
        "How several processes train together: `ddp` averages gradients; `dpsgd` averages weights with neighbours "
        "while gradients are computed (Zhang et al. 2021, arXiv 2112.01433); `adpsgd` does so without "
        "waiting (Cui et al. 2021, arXiv 2110.11199).",
        choices=("ddp", "dpsgd", "adpsgd"),
    )
    mixing: str = setting(
        "ring",
        "Which weights a learner averages: those of its two neighbours on a ring, of neighbours on a ring that is "
        "redrawn each update, of one randomly drawn partner, or of all learners, which is synchronous with `adpsgd` "
        "too (D1D).",
        choices=("ring", "random_ring", "random_pairs", "average"),
        only_with="train.parallel=dpsgd|adpsgd",
    )
    super_learner: int = setting(
        1, "Processes that average gradients and together are one learner.", least=1, only_with="train.parallel=adpsgd"
    )
    watch_every: int = setting(
        0,
        "Updates between two measurements of the effective learning rate and of the noise that mini-batches and the "
        "spread of the learners' weights cause; each costs another gradient. Asynchronous learners are "
        "measured once per epoch, when they synchronize. 0 for none.",
        least=0,
        only_with="train.parallel=dpsgd|adpsgd",
    )
    heartbeat_s: float = setting(30.0, "Seconds of silence after which a learner counts as lost.", least=1)
    sampling: SamplingConfig = section(SamplingConfig, only_with=SPEECH)
    mix: dict[str, MixedSetConfig] = setting(
        {}, "More training sets by a name of your choice, mixed into each epoch by their weights.", only_with=SPEECH
    )
    optimizer: OptimizerConfig = section(OptimizerConfig)
    schedule: ScheduleConfig = section(ScheduleConfig)
