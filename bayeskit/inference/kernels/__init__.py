"""Markov kernels, one file each."""

from bayeskit.inference.kernels.barker import Barker
from bayeskit.inference.kernels.base import (
    Kernel,
    StepInfo,
    Tuning,
    metropolis,
    not_usable,
)
from bayeskit.inference.kernels.delayed_rejection import DelayedRejection
from bayeskit.inference.kernels.discrete import DiscreteMetropolis
from bayeskit.inference.kernels.discrete_gibbs import DiscreteGibbs
from bayeskit.inference.kernels.elliptical_slice import EllipticalSlice
from bayeskit.inference.kernels.ghmc import GHMC, MomentumState
from bayeskit.inference.kernels.hmc import HMC
from bayeskit.inference.kernels.independent import Independent
from bayeskit.inference.kernels.infinity_mala import InfinityMALA
from bayeskit.inference.kernels.locally_informed import LocallyInformed
from bayeskit.inference.kernels.mala import MALA
from bayeskit.inference.kernels.multiple_try import MultipleTry
from bayeskit.inference.kernels.normal_prior import NormalPrior
from bayeskit.inference.kernels.nuts import NoUTurn
from bayeskit.inference.kernels.pcn import PCN
from bayeskit.inference.kernels.prior_proposal import PriorProposal
from bayeskit.inference.kernels.random_walk import RandomWalk
from bayeskit.inference.kernels.slice import Slice
from bayeskit.inference.kernels.unadjusted_langevin import UnadjustedLangevin
from bayeskit.inference.kernels.uniform_other import UniformOther

__all__ = [
    "GHMC",
    "HMC",
    "MALA",
    "PCN",
    "Barker",
    "DelayedRejection",
    "DiscreteGibbs",
    "DiscreteMetropolis",
    "EllipticalSlice",
    "Independent",
    "InfinityMALA",
    "Kernel",
    "LocallyInformed",
    "MomentumState",
    "MultipleTry",
    "NoUTurn",
    "NormalPrior",
    "PriorProposal",
    "RandomWalk",
    "Slice",
    "StepInfo",
    "Tuning",
    "UnadjustedLangevin",
    "UniformOther",
    "metropolis",
    "not_usable",
]
