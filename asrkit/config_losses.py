"""The settings of ``loss``, which supervised training minimises."""

from __future__ import annotations

from dataclasses import dataclass

from asrkit.settings import setting

CONFORMER = "model.encoder.type=conformer|dssformer"


@dataclass
class LossConfig:
    """The supervised loss: the transducer loss plus ``ctc_weight`` times the CTC loss of the encoder."""

    implementation: str = setting(
        "ours",
        "Implementation of the transducer loss; `torchaudio` has only the full lattice, `k2` only the pruned loss.",
        choices=("ours", "torchaudio", "k2"),
    )
    prune_range: int = setting(
        0, "Labels that the pruned loss keeps at a frame (Kuang et al. 2022: 5); 0 for the full lattice.", least=0
    )
    simple_weight: float = setting(
        0.5,
        "Weight of the trivial joiner's loss, from which the pruned loss takes its bounds.",
        least=0,
        most=1000,
        only_with="loss.prune_range>0",
    )
    am_only_scale: float = setting(
        0.0,
        "Smoothing of the trivial joiner by the encoder's own part.",
        least=0,
        most=1000,
        only_with="loss.prune_range>0",
    )
    lm_only_scale: float = setting(
        0.25,
        "Smoothing of the trivial joiner by the predictor's own part.",
        least=0,
        most=1000,
        only_with="loss.prune_range>0",
    )
    fastemit_lambda: float = setting(
        0.0,
        "Strengthens the gradient of labels (full lattice of `ours`), so that they are emitted earlier.",
        least=0,
        most=1000,
    )
    ctc_weight: float = setting(0.1, "Weight of the CTC loss; 0 disables it.", least=0, most=1000)
    intermediate_ctc_weight: float = setting(
        0.0,
        "Share of the CTC loss that is computed at an inner block of the encoder (Lee and Watanabe 2021, arXiv "
        "2102.03216: 0.5).",
        least=0,
        most=1,
        only_with=CONFORMER,
    )
    intermediate_ctc_block: int = setting(
        0,
        "Number of the inner block, from 1; 0 for the middle one.",
        least=0,
        only_with=f"{CONFORMER} and loss.intermediate_ctc_weight>0",
    )
    consistency_weight: float = setting(
        0.0,
        "Each utterance is presented in two augmented views, whose CTC posteriors are pulled together with this weight "
        "(CR-CTC, Yao et al. 2025, arXiv 2410.05101: 0.2); 0 presents one view.",
        least=0,
        most=1000,
    )
    ctc_only_epochs: int = setting(
        0, "First epochs with the CTC loss alone, so that the encoder starts from a CTC model.", least=0
    )
    frame_epochs: int = setting(
        0,
        "First epochs, before those of the CTC loss, with cross-entropy on the labels of frames (`asrkit align`), so "
        "that the encoder starts from an acoustic model (Hu et al. 2020, arXiv 2005.00572). -1 trains only that "
        "model, in all epochs.",
        least=-1,
    )
    frame_projection: int = setting(
        0,
        "Width of a linear layer before the softmax over frame labels; 0 for none.",
        least=0,
        most=65536,
        only_with="loss.frame_epochs!=0",
    )


def frame_epochs(loss: LossConfig, num_epochs: int) -> int:
    """The number of first epochs, of ``num_epochs``, in which frames are classified."""
    return num_epochs if loss.frame_epochs < 0 else loss.frame_epochs
