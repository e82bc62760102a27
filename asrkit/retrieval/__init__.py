"""Passage retrieval that takes into account what is known about the user."""
