"""Cuts to batches."""
