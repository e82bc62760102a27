"""Symbol numbers and marks that all modules share."""

from __future__ import annotations

BLANK_ID = 0
"""Blank of the transducer and of CTC."""
BOUNDARY_ID = 0
"""Begins and ends a line of a language model, which has no use for blank."""
BLANK = "<blank>"
"""How blank is written in lists of symbols."""
SPACE = "▁"
"""How a space is written inside a symbol."""
