"""Waveform to model input, and its augmentation."""
