"""Trained models on disk, and loading them as modules."""
