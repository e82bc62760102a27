"""Auxiliary studies of learning itself; tied to no speech room but the progress bar."""
