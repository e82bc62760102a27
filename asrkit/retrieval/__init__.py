"""Passage retrieval that uses known contexts of the user."""
