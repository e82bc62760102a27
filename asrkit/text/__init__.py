"""Symbols and transcripts."""
