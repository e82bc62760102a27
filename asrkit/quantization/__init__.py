"""Model quantization."""
