"""DSSformer: a conformer whose depthwise convolution is a diagonal state space (Saon et al. 2023, arXiv 2302.14120)."""

from __future__ import annotations

from functools import partial
from typing import Any

from asrkit.models.conformer import Conformer
from asrkit.models.dss import DssLayer


def dssformer(input_dim: int, *, dss: dict[str, Any], **conformer: Any) -> Conformer:
    """A conformer whose temporal convolution is replaced by a :class:`DssLayer`.

    Args:
        input_dim: F.
        dss: settings of :class:`DssLayer`.
        conformer: settings of :class:`Conformer`; ``conv_kernel`` is unused.
    """
    return Conformer(input_dim, temporal=partial(DssLayer, **dss), **conformer)
