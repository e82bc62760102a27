"""Scoring hypotheses."""
