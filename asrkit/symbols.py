"""Symbol numbers and marks that modules share."""

from __future__ import annotations

BLANK_ID = 0
"""Blank of the transducer and of CTC."""
BOUNDARY_ID = 0
"""Begins and ends a line of a language model, which does not use blank."""
BLANK = "<blank>"
"""Blank in lists of symbols."""
SPACE = "▁"
"""A space inside a symbol."""
