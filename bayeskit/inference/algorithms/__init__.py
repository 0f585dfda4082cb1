"""Algorithms, each a few lines of blocks."""

from bayeskit.inference.algorithms.auxiliary import auxiliary_particle_filter
from bayeskit.inference.algorithms.backward_sampling import backward_sampling, genealogy
from bayeskit.inference.algorithms.conditional_smc import conditional_smc
from bayeskit.inference.algorithms.fixed_lag import LaggedParticles, fixed_lag
from bayeskit.inference.algorithms.guided import guided_model
from bayeskit.inference.algorithms.missing import ignore_missing
from bayeskit.inference.algorithms.mixture_kalman import (
    KalmanParticle,
    LinearGaussian,
    mixture_kalman_model,
)
from bayeskit.inference.algorithms.parallel_tempering import parallel_tempering
from bayeskit.inference.algorithms.paris import AdditiveParticle, paris
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.algorithms.particle_gibbs import particle_gibbs
from bayeskit.inference.algorithms.reversible_jump import reversible_jump_mcmc
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc
from bayeskit.inference.algorithms.two_filter import InformationFilter, two_filter
from bayeskit.inference.algorithms.unbiased_mcmc import unbiased_mcmc

__all__ = [
    "AdditiveParticle",
    "InformationFilter",
    "KalmanParticle",
    "LaggedParticles",
    "LinearGaussian",
    "auxiliary_particle_filter",
    "backward_sampling",
    "conditional_smc",
    "fixed_lag",
    "genealogy",
    "guided_model",
    "ignore_missing",
    "mixture_kalman_model",
    "parallel_tempering",
    "paris",
    "particle_filter",
    "particle_gibbs",
    "reversible_jump_mcmc",
    "tempered_smc",
    "two_filter",
    "unbiased_mcmc",
    "waste_free_smc",
]
