"""The whole experiment as typed dataclasses; :mod:`asrkit.config_files` reads them from YAML.

Known to the command line and to training only; everything else takes plain arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FeatureConfig:
    """Waveform to model input."""

    sampling_rate_hz: int = 16000
    num_mel_bins: int = 80
    normalization: str = "global"
    """``none``, ``global`` (statistics of the training set), ``speaker`` or ``side`` (of a conversation)."""
    deltas: bool = False
    """Append first and second differences."""
    stacking: int = 1
    """Frames joined to one, before the encoder."""
    speaker_vectors: str = ""
    """A safetensors file with a vector for each speaker, such as an i-vector, appended to each frame."""
    speaker_vector_dim: int = 0
    speed_factors: list[float] = field(default_factory=lambda: [1.0])
    """Replicas of the training set at these speeds."""
    tempo_factors: list[float] = field(default_factory=list)
    """More replicas, at these tempos: the pitch stays."""
    store: bool = False
    """Compute the features once and keep them on disk instead of computing them in the loader."""


@dataclass
class SpecAugmentConfig:
    """Masks of Park et al. 2019 (arXiv 1904.08779), without time warping."""

    probability: float = 0.9
    """Share of the utterances that are masked; 0 switches it off."""
    num_frequency_masks: int = 2
    max_frequency_mask_bins: int = 27
    num_time_masks: int = 5
    max_time_mask_frames: int = 40
    max_time_mask_fraction: float = 0.05
    """A single time mask covers at most this share of the utterance."""
    from_epoch: int = 1
    """First epoch with masks: a model that cannot align yet learns it sooner without."""


@dataclass
class LengthPerturbationConfig:
    """Length perturbation of Cui et al. 2022 (arXiv 2203.15176): the paper's values are 0.7, 0.1, 7, 0.7, 0.1, 3."""

    drop_probability: float = 0.0
    """Share of the utterances that lose frames."""
    drop_rate: float = 0.1
    """Share of an utterance's frames at which a run of dropped frames starts."""
    max_drop: int = 7
    insert_probability: float = 0.0
    """Share of the utterances that gain zero frames."""
    insert_rate: float = 0.1
    max_insert: int = 3
    from_epoch: int = 1
    """First epoch with perturbation."""
    until_epoch: int = 0
    """Last epoch with perturbation; 0 never ends it."""


@dataclass
class NbestLabelSmoothingConfig:
    """N-best label smoothing of Cui et al. 2022 (arXiv 2203.15176: probability 0.1, 20 hypotheses)."""

    hypotheses: str = ""
    """What ``asrkit nbest`` wrote for the training set."""
    probability: float = 0.0
    """ε, share of the presentations whose transcript is swapped for a hypothesis; 0 switches it off."""
    num_hypotheses: int = 20
    """K, the first of a list that are drawn from."""
    from_epoch: int = 1
    """First epoch with smoothing."""
    until_epoch: int = 0
    """Last epoch with smoothing; 0 never ends it."""


@dataclass
class SequenceNoiseConfig:
    """Another utterance's spectrum added (Saon et al. 2021, arXiv 2103.09935: probability 0.8, scale 0.4)."""

    probability: float = 0.0
    scale: float = 0.4


@dataclass
class TokenizerConfig:
    """Symbols."""

    type: str = "char"
    """``char``, ``unigram`` or ``bpe`` (SentencePiece)."""
    vocab_size: int = 500
    """Symbols of a SentencePiece model (characters: as many as the training transcripts hold)."""


@dataclass
class ConformerConfig:
    """Conformer encoder, and all of the DSSformer but its state spaces."""

    num_layers: int = 6
    d_model: int = 144
    num_heads: int = 4
    head_dim: int = 0
    """Width of a head; 0 for d_model / num_heads."""
    ff_expansion: int = 4
    conv_expansion: int = 1
    """Channels of the convolution module, in d_model."""
    conv_kernel: int = 15
    dropout: float = 0.1
    subsampling_channels: int = 32
    max_relative_distance: int = 256
    """Frames beyond which relative positions are no longer told apart."""


@dataclass
class DssConfig:
    """State spaces of the DSSformer."""

    state_dim: int = 96
    init: str = "linear"
    """Of the eigenvalues: ``linear`` (-1 + i n), ``hippo``, ``exp_random``, ``s4d_inv`` or ``s4d_lin``."""
    form: str = "exp"
    """``exp`` or ``softmax``."""
    bidirectional: bool = True
    kernel_length: int = 0
    """Frames of the kernel in the softmax form, which depends on it."""


@dataclass
class BlstmConfig:
    """Bidirectional LSTM encoder."""

    num_layers: int = 6
    cells: int = 640
    """Per direction."""
    dropout: float = 0.25
    drop_connect: float = 0.25
    """Share of the hidden-to-hidden weights that is zero in a step."""


@dataclass
class EncoderConfig:
    """Which encoder, and the settings of each kind."""

    type: str = "conformer"
    """``conformer``, ``dssformer`` or ``blstm``."""
    subsampling: int = 4
    """Frames that become one: 4 or 8 (by convolutions) or 1 (for stacked frames); always 1 for the bi-LSTM."""
    conformer: ConformerConfig = field(default_factory=ConformerConfig)
    dss: DssConfig = field(default_factory=DssConfig)
    blstm: BlstmConfig = field(default_factory=BlstmConfig)


@dataclass
class PredictorConfig:
    """Prediction network."""

    type: str = "lstm"
    """``lstm``, or ``stateless``: a convolution over the last labels, whose width is ``embedding_dim``."""
    embedding_dim: int = 128
    hidden_dim: int = 128
    """Of the LSTM."""
    num_layers: int = 1
    """Of the LSTM."""
    context_size: int = 2
    """Labels that the stateless one sees."""
    dropout: float = 0.2
    embedding_dropout: float = 0.2


@dataclass
class JoinerConfig:
    """Joint network."""

    joiner_dim: int = 256
    combination: str = "add"
    """``add`` or ``multiply``."""


@dataclass
class ModelConfig:
    """The transducer."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner: JoinerConfig = field(default_factory=JoinerConfig)


@dataclass
class LossConfig:
    """What is minimised: the transducer loss plus ``ctc_weight`` times the CTC loss of the encoder."""

    implementation: str = "ours"
    """Of the transducer loss: ``ours``, ``torchaudio`` (full lattice only) or ``k2`` (pruned only)."""
    prune_range: int = 0
    """Labels that the pruned loss keeps at a frame (Kuang et al. 2022: 5); 0 for the full lattice."""
    simple_weight: float = 0.5
    """Weight of the trivial joiner's loss, from which the pruned loss takes its bounds."""
    am_only_scale: float = 0.0
    lm_only_scale: float = 0.25
    """Smoothing of the trivial joiner by the encoder's and the predictor's own parts."""
    fastemit_lambda: float = 0.0
    """Strengthens the gradient of labels (full lattice of ``ours``), so that they are emitted earlier."""
    ctc_weight: float = 0.1
    ctc_only_epochs: int = 0
    """First epochs with the CTC loss alone, so that the encoder starts from a CTC model."""


@dataclass
class LanguageModelConfig:
    """A language model (``asrkit train-lm``)."""

    type: str = "lstm"
    """``lstm`` (fusion and rescoring) or ``transformer`` (rescoring)."""
    hidden_dim: int = 512
    """Width of the embedding and of each layer."""
    num_layers: int = 1
    bottleneck_dim: int = 256
    """Width before the output (``lstm``)."""
    num_heads: int = 8
    """Of the ``transformer``."""
    dropout: float = 0.1
    max_symbols: int = 400
    """Longer lines are left out."""
    batch_symbols: int = 8000
    """Symbols in one update, padding included."""


@dataclass
class ScheduleConfig:
    """Learning rate by epoch."""

    type: str = "warmup_hold_anneal"
    """``warmup_hold_anneal`` or ``one_cycle``."""
    initial_lr: float = 1e-4
    peak_lr: float = 1e-3
    warmup_epochs: float = 9
    hold_epochs: float = 7
    """Epochs at the peak, the first one included (``warmup_hold_anneal``)."""
    boost_from_epoch: int = 0
    """From this epoch on the rate is multiplied by ``boost``; 0 never."""
    boost: float = 2.0


@dataclass
class TrainConfig:
    """The training loop."""

    seed: int = 1
    num_epochs: int = 30
    batch_seconds: float = 300.0
    """Padded seconds of speech in one update, over all processes and accumulation steps together."""
    accumulation_steps: int = 1
    lattice_budget: int = 100_000_000
    """Most entries B·T'·U·V of the joiner's output in one forward pass of one process."""
    num_buckets: int = 10
    num_workers: int = 2
    weight_decay: float = 1e-2
    max_grad_norm: float = 5.0
    autocast: str = "none"
    """``auto`` (bf16 where every process' processor multiplies in it), ``none``, ``bf16`` or ``fp16``."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu`` or ``cuda``."""
    checkpoint_every_steps: int = 500
    """Checkpoints inside an epoch, beside the one at its end."""
    keep_every_epochs: int = 0
    """Keep the weights of every Nth epoch for good; 0 keeps none beyond the rules."""
    average_epochs: int = 5
    """The final model is the mean of the weights of this many last epochs."""
    dev_wer_every_epochs: int = 1
    early_stop_epochs: int = 0
    """Stop after this many measurements of dev WER without a better one; 0 never stops early."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass
class FusionConfig:
    """Language models in the beam searches (density ratio; a source weight of 0 is shallow fusion)."""

    target_lm: str = ""
    """The external language model's file."""
    source_lm: str = ""
    """That of the training transcripts; ``internal`` takes the transducer's own."""
    target_weight: float = 0.0
    """λ."""
    source_weight: float = 0.0
    """μ."""
    length_weight: float = 0.0
    """ρ, added for each label."""


@dataclass
class DecodeConfig:
    """Search."""

    method: str = "greedy"
    """``greedy``, ``beam`` (alignment-length synchronous) or ``modified_beam`` (at most one label a frame)."""
    beam: int = 8
    """Hypotheses kept."""
    nbest: int = 8
    """Hypotheses returned."""
    expand_beam: int = 0
    """Labels tried for each hypothesis; 0 tries all."""
    score_margin: float = 0.0
    """Hypotheses worse than the best by more are dropped; 0 drops none."""
    max_symbols: int = 5
    """Most labels at one frame; 0 sets no bound (beam searches)."""
    max_labels_per_frame: float = 1.0
    """Bound on the length of a hypothesis, in labels per encoder frame (beam)."""
    blank_penalty: float = 0.0
    """Subtracted from blank's logit, against deletions."""
    full_sum: bool = True
    """Whether the search ends with sums over all alignments near those found, of greedy's hypothesis too (beam)."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    batch_seconds: float = 120.0


@dataclass
class Config:
    """An experiment."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    nbest_label_smoothing: NbestLabelSmoothingConfig = field(default_factory=NbestLabelSmoothingConfig)
    length_perturbation: LengthPerturbationConfig = field(default_factory=LengthPerturbationConfig)
    sequence_noise: SequenceNoiseConfig = field(default_factory=SequenceNoiseConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
