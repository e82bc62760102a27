"""Passage retrieval that takes what is known about the user into account."""
