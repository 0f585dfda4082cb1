"""Kernels of Gaussian processes with a state-space form, and how they compose."""

from bayeskit.inference.gp_kernels.chain import FunctionChain, chain_of, stacked_chain
from bayeskit.inference.gp_kernels.composite import Product, Scaled, Sum
from bayeskit.inference.gp_kernels.free_parameters import FreeParameters
from bayeskit.inference.gp_kernels.hyperparametric import Hyperparametric, LogNormal, Scales
from bayeskit.inference.gp_kernels.kernel import StateSpaceKernel
from bayeskit.inference.gp_kernels.matern import Matern12, Matern32, Matern52
from bayeskit.inference.gp_kernels.oscillations import SHO, Periodic, QuasiPeriodic
from bayeskit.inference.gp_kernels.polynomials import Constant, IntegratedWiener, Linear
from bayeskit.inference.gp_kernels.white import White

__all__ = [
    "SHO",
    "Constant",
    "FreeParameters",
    "FunctionChain",
    "Hyperparametric",
    "IntegratedWiener",
    "Linear",
    "LogNormal",
    "Matern12",
    "Matern32",
    "Matern52",
    "Periodic",
    "Product",
    "QuasiPeriodic",
    "Scaled",
    "Scales",
    "StateSpaceKernel",
    "Sum",
    "White",
    "chain_of",
    "stacked_chain",
]
