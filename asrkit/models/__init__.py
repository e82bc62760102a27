"""Model modules, independent of training."""
