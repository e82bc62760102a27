"""The settings of an experiment, each with default, meaning, choices, range and condition.

:mod:`asrkit.config_files` reads them from YAML; ``tools/settings_page.py`` writes ``docs/settings.md`` from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from asrkit.config_losses import CONFORMER, LossConfig
from asrkit.config_quantization import QuantizationConfig
from asrkit.config_training import TrainConfig
from asrkit.config_unsupervised import BlJustConfig
from asrkit.settings import section, setting

BEAM = "decode.method=beam|modified_beam"


@dataclass
class FeatureConfig:
    """Waveform to model input."""

    sampling_rate_hz: int = setting(16000, "Sampling rate of the audio.", least=4000, most=384000)
    num_mel_bins: int = setting(80, "Bands of the filter bank.", least=4, most=4096)
    normalization: str = setting(
        "global",
        "Normalization statistics: of the training set, of the speaker or of the conversation side.",
        choices=("none", "global", "speaker", "side"),
    )
    deltas: bool = setting(False, "Append first and second differences.")
    stacking: int = setting(1, "Frames that are stacked into one before the encoder.", least=1, most=4096)
    speaker_vectors: str = setting(
        "", "A safetensors file with a vector for each speaker, such as an i-vector, appended to each frame."
    )
    speaker_vector_dim: int = setting(0, "Dimension of a speaker vector.", least=0, most=65536)
    speed_factors: list[float] = setting([1.0], "Replicas of the training set at these speeds.", least=0.1, most=10)
    tempo_factors: list[float] = setting([], "More replicas at these tempos, with unchanged pitch.", least=0.1, most=10)
    store: bool = setting(
        False, "Compute the features once and keep them on disk instead of computing them in the loader."
    )


@dataclass
class SpecAugmentConfig:
    """Masks of Park et al. 2019 (arXiv 1904.08779), without time warping."""

    probability: float = setting(0.9, "Share of the utterances that are masked; 0 disables it.", least=0, most=1)
    num_frequency_masks: int = setting(2, "Frequency bands masked in an utterance.", least=0)
    max_frequency_mask_bins: int = setting(27, "Widest band.", least=0)
    num_time_masks: int = setting(5, "Stretches of time masked in an utterance.", least=0)
    max_time_mask_frames: int = setting(40, "Longest stretch.", least=0)
    max_time_mask_fraction: float = setting(
        0.05, "A single stretch covers at most this share of the utterance.", least=0, most=1
    )
    from_epoch: int = setting(1, "First epoch with masks; without masks, models learn to align sooner.", least=0)


@dataclass
class LengthPerturbationConfig:
    """Length perturbation of Cui et al. 2022 (arXiv 2203.15176): the paper's values are 0.7, 0.1, 7, 0.7, 0.1, 3."""

    drop_probability: float = setting(0.0, "Share of the utterances that lose frames.", least=0, most=1)
    drop_rate: float = setting(
        0.1, "Share of an utterance's frames at which a run of dropped frames starts.", least=0, most=1
    )
    max_drop: int = setting(7, "Longest run of dropped frames.", least=0, most=100000)
    insert_probability: float = setting(0.0, "Share of the utterances that gain zero frames.", least=0, most=1)
    insert_rate: float = setting(
        0.1, "Share of an utterance's frames after which a run of zero frames is inserted.", least=0, most=1
    )
    max_insert: int = setting(3, "Longest run of zero frames.", least=0, most=100000)
    from_epoch: int = setting(1, "First epoch with perturbation.", least=0)
    until_epoch: int = setting(0, "Last epoch with perturbation; 0 for no end.", least=0)


@dataclass
class NbestLabelSmoothingConfig:
    """N-best label smoothing of Cui et al. 2022 (arXiv 2203.15176: probability 0.1, 20 hypotheses)."""

    hypotheses: str = setting("", "File from `asrkit nbest` for the training set.")
    probability: float = setting(
        0.0,
        "ε, share of the presentations in which a hypothesis replaces the transcript; 0 disables it.",
        least=0,
        most=1,
    )
    num_hypotheses: int = setting(20, "K, number of best hypotheses to draw from.", least=1, most=10000)
    from_epoch: int = setting(1, "First epoch with smoothing.", least=0)
    until_epoch: int = setting(0, "Last epoch with smoothing; 0 for no end.", least=0)


@dataclass
class SequenceNoiseConfig:
    """Another utterance's spectrum added (Saon et al. 2021, arXiv 2103.09935: probability 0.8, scale 0.4)."""

    probability: float = setting(0.0, "Share of the utterances that are changed.", least=0, most=1)
    scale: float = setting(0.4, "Factor of the added spectrum.", least=0, most=1000)


@dataclass
class TokenizerConfig:
    """Symbols."""

    type: str = setting("char", "Characters, or a SentencePiece model.", choices=("char", "unigram", "bpe"))
    vocab_size: int = setting(
        500,
        "Symbols of the SentencePiece model; `char` takes all characters of the training transcripts.",
        least=2,
        most=65535,
        only_with="tokenizer.type=unigram|bpe",
    )
    soft_limit: bool = setting(
        False,
        "Take fewer symbols, instead of an error, if the transcripts cannot fill `vocab_size`.",
        only_with="tokenizer.type=unigram|bpe",
    )


@dataclass
class ConformerConfig:
    """Conformer encoder, and all of the DSSformer but its state spaces."""

    num_layers: int = setting(6, "Blocks.", least=1, most=1000)
    d_model: int = setting(144, "Width D.", least=1, most=65536)
    num_heads: int = setting(4, "Attention heads.", least=1, most=4096)
    head_dim: int = setting(0, "Width of a head; 0 for d_model / num_heads.", least=0, most=65536)
    ff_expansion: int = setting(
        4, "Inner width of the feed-forward modules, in multiples of d_model.", least=1, most=4096
    )
    conv_expansion: int = setting(1, "Channels of the convolution module, in multiples of d_model.", least=1, most=4096)
    conv_kernel: int = setting(
        15,
        "Frames that the depthwise convolution sees, an odd number.",
        least=1,
        most=100000,
        only_with="model.encoder.type=conformer",
    )
    dropout: float = setting(0.1, "Dropout of each module's output.", least=0, most=0.99)
    subsampling_channels: int = setting(
        32, "Channels of the subsampling convolutions.", least=1, most=65536, only_with="model.encoder.subsampling=4|8"
    )
    max_relative_distance: int = setting(
        256, "Frames beyond which relative positions are not distinguished.", least=1, most=100000
    )


@dataclass
class DssConfig:
    """State spaces of the DSSformer."""

    state_dim: int = setting(96, "States N.", least=1, most=4096)
    init: str = setting(
        "linear",
        "Initial eigenvalues; `linear` is -1 + i n.",
        choices=("linear", "hippo", "exp_random", "s4d_inv", "s4d_lin"),
    )
    form: str = setting("exp", "Form of the kernel.", choices=("exp", "softmax"))
    bidirectional: bool = setting(True, "Use a second set of weights for future frames.")
    min_step_per_s: float = setting(
        0.25,
        "Smallest step Δ of a channel at the start, in units of the system's time per second of speech. "
        "A step of 0.02 to 0.3 per encoder frame makes local filters; the paper has 0.05 per second.",
        least=1e-6,
    )
    max_step_per_s: float = setting(25.0, "Largest step; the paper has 5 per second.", least=1e-6)
    weight_scale: float = setting(
        0.2, "Deviation of the output weights W at the start; the paper has 1.", least=0, most=1000
    )
    local_kernel: int = setting(
        0,
        "Taps, an odd number, of a local convolution that replaces the shortcut; 0 keeps the shortcut.",
        least=0,
        most=100000,
    )
    kernel_length: int = setting(
        0,
        "Frames of the kernel, on which its normalizer depends.",
        least=0,
        most=100000,
        only_with="model.encoder.dss.form=softmax",
    )


@dataclass
class BlstmConfig:
    """Bidirectional LSTM encoder."""

    num_layers: int = setting(6, "Layers.", least=1, most=1000)
    cells: int = setting(640, "Cells per direction.", least=1, most=65536)
    dropout: float = setting(0.25, "Dropout of each layer's output.", least=0, most=0.99)
    drop_connect: float = setting(
        0.25, "Share of the hidden-to-hidden weights that are zero in a step.", least=0, most=0.99
    )


@dataclass
class EncoderConfig:
    """Which encoder, and the settings of each kind."""

    type: str = setting("conformer", "Kind of encoder.", choices=("conformer", "dssformer", "blstm"))
    subsampling: int = setting(
        4,
        "Frames merged into one: 4 or 8 by convolutions, 1 for stacked frames; the bi-LSTM keeps its input's rate.",
        choices=(1, 4, 8),
        only_with=CONFORMER,
    )
    conformer: ConformerConfig = section(ConformerConfig, only_with=CONFORMER)
    dss: DssConfig = section(DssConfig, only_with="model.encoder.type=dssformer")
    blstm: BlstmConfig = section(BlstmConfig, only_with="model.encoder.type=blstm")


@dataclass
class PredictorConfig:
    """Prediction network."""

    type: str = setting(
        "lstm",
        "`stateless` is a convolution over the last labels, as wide as `embedding_dim`.",
        choices=("lstm", "stateless"),
    )
    embedding_dim: int = setting(128, "Width of a label's embedding.", least=1, most=65536)
    hidden_dim: int = setting(128, "LSTM cells.", least=1, most=65536, only_with="model.predictor.type=lstm")
    num_layers: int = setting(1, "LSTM layers.", least=1, most=1000, only_with="model.predictor.type=lstm")
    context_size: int = setting(
        2, "Labels that the predictor sees.", least=1, most=4096, only_with="model.predictor.type=stateless"
    )
    dropout: float = setting(0.2, "Dropout of the output.", least=0, most=0.99)
    embedding_dropout: float = setting(0.2, "Dropout of the embedding.", least=0, most=0.99)


@dataclass
class JoinerConfig:
    """Joint network."""

    joiner_dim: int = setting(256, "Width J.", least=1, most=65536)
    combination: str = setting("add", "Combination of encoder and predictor.", choices=("add", "multiply"))


@dataclass
class ModelConfig:
    """The transducer."""

    encoder: EncoderConfig = section(EncoderConfig)
    predictor: PredictorConfig = section(PredictorConfig)
    joiner: JoinerConfig = section(JoinerConfig)


@dataclass
class LanguageModelConfig:
    """A language model (``asrkit train-lm``)."""

    type: str = setting(
        "lstm", "`lstm` for fusion and rescoring, `transformer` for rescoring.", choices=("lstm", "transformer")
    )
    hidden_dim: int = setting(512, "Width of the embedding and of each layer.", least=1, most=65536)
    num_layers: int = setting(1, "Layers.", least=1, most=1000)
    bottleneck_dim: int = setting(
        256, "Width of the layer before the output.", least=1, most=65536, only_with="lm.type=lstm"
    )
    num_heads: int = setting(8, "Attention heads.", least=1, most=4096, only_with="lm.type=transformer")
    dropout: float = setting(0.1, "Dropout of the embedding and of each layer's output.", least=0, most=0.99)
    max_symbols: int = setting(400, "Longer lines are excluded.", least=1, most=100000)
    batch_symbols: int = setting(
        8000, "Symbols in one update, padding included, over all processes and accumulation steps together.", least=1
    )


@dataclass
class FusionConfig:
    """Language models in the beam searches (density ratio; a source weight of 0 is shallow fusion)."""

    target_lm: str = setting("", "The external language model's file.")
    source_lm: str = setting("", "The language model of the training transcripts; `internal` for the transducer's own.")
    target_weight: float = setting(0.0, "λ, weight of the external language model.", least=-1000)
    source_weight: float = setting(0.0, "μ, weight of the source language model.", least=-1000)
    length_weight: float = setting(0.0, "ρ, added for each label.", least=-1000)


@dataclass
class DecodeConfig:
    """Search."""

    method: str = setting(
        "greedy",
        "`beam` is alignment-length synchronous, `modified_beam` emits at most one label per frame.",
        choices=("greedy", "beam", "modified_beam"),
    )
    beam: int = setting(8, "Hypotheses kept.", least=1, most=10000, only_with=BEAM)
    nbest: int = setting(8, "Hypotheses returned.", least=1, most=10000, only_with=BEAM)
    expand_beam: int = setting(0, "Labels tried for each hypothesis; 0 tries all.", least=0, only_with=BEAM)
    score_margin: float = setting(
        0.0,
        "Hypotheses that are worse than the best by more than this are dropped; 0 drops none.",
        least=0,
        only_with=BEAM,
    )
    max_symbols: int = setting(
        5,
        "Most labels at one frame; 0 sets no bound (`beam`).",
        least=0,
        most=100000,
        only_with="decode.method=greedy|beam",
    )
    max_labels_per_frame: float = setting(
        1.0,
        "Bound on the length of a hypothesis, in labels per encoder frame.",
        least=0.01,
        only_with="decode.method=beam",
    )
    blank_penalty: float = setting(0.0, "Subtracted from blank's logit, against deletions.", least=-1000)
    full_sum: bool = setting(
        True,
        "Whether the final hypotheses and greedy's are scored by sums over all alignments near theirs.",
        only_with="decode.method=beam",
    )
    fusion: FusionConfig = section(FusionConfig)
    batch_seconds: float = setting(120.0, "Padded seconds of speech in a batch.", least=0.01)


@dataclass
class Config:
    """An experiment."""

    features: FeatureConfig = section(FeatureConfig)
    nbest_label_smoothing: NbestLabelSmoothingConfig = section(NbestLabelSmoothingConfig)
    length_perturbation: LengthPerturbationConfig = section(LengthPerturbationConfig)
    sequence_noise: SequenceNoiseConfig = section(SequenceNoiseConfig)
    spec_augment: SpecAugmentConfig = section(SpecAugmentConfig)
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    model: ModelConfig = section(ModelConfig)
    quantization: QuantizationConfig = section(QuantizationConfig)
    rewrites: list[str] = setting(
        [], "Named functions that replace modules of the built model, in this order: `quantize`."
    )
    loss: LossConfig = section(LossConfig)
    train: TrainConfig = section(TrainConfig)
    bl_just: BlJustConfig = section(BlJustConfig)
    decode: DecodeConfig = section(DecodeConfig)
    lm: LanguageModelConfig = section(LanguageModelConfig)
