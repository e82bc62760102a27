"""A release on disk to CutSets."""
