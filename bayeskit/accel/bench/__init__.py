"""How fast the kernels are here, beside a copy of memory and beside other packages.

``python -m bayeskit.accel.bench``, or ``bayeskit bench``, measures kernel by kernel, says how
wrong each answer is next to how fast it came, and compares with stored ratios. All that is
compared runs in one process and takes turns.
"""

from bayeskit.accel.bench.command import main

__all__ = ["main"]
