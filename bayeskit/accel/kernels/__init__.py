"""Kernels for one kind of hardware each, beside the XLA programs that run anywhere."""
