"""Encoder output to hypotheses."""
