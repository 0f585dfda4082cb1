"""Markov kernels, one file each."""

from bayeskit.inference.kernels.base import (
    Kernel,
    StepInfo,
    Tuning,
    metropolis,
    not_usable,
)
from bayeskit.inference.kernels.discrete import DiscreteMetropolis
from bayeskit.inference.kernels.hmc import HMC
from bayeskit.inference.kernels.independent import Independent
from bayeskit.inference.kernels.mala import MALA
from bayeskit.inference.kernels.nuts import NoUTurn
from bayeskit.inference.kernels.random_walk import RandomWalk

__all__ = [
    "HMC",
    "MALA",
    "DiscreteMetropolis",
    "Independent",
    "Kernel",
    "NoUTurn",
    "RandomWalk",
    "StepInfo",
    "Tuning",
    "metropolis",
    "not_usable",
]
