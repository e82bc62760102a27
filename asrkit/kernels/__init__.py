"""C, called through ctypes; see :mod:`asrkit.quantization.kernels`."""
