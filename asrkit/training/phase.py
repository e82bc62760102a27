"""What a step minimises."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A stretch of training that minimises one objective."""

    name: str
    all_used: bool = True
    """Whether every parameter gets a gradient."""
    lr_scale: float = 1.0
    """Factor on the learning rate."""
    penalty: float = 0.0
    """Weight of the unsupervised loss in addition to the supervised one."""
    level: str = ""
    """Phases of the same level share the optimizer's moments."""

    def same_parameters(self, other: Phase) -> bool:
        """Whether both give gradients to the same parameters."""
        return (self.name, self.all_used) == (other.name, other.all_used)
