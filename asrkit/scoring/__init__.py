"""How good the hypotheses are."""
