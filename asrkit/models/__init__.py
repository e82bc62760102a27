"""Modules without knowledge of training."""
