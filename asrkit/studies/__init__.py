"""Auxiliary studies of learning itself, without speech."""
