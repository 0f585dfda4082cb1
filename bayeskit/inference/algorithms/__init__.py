"""Algorithms, each a few lines of blocks."""

from bayeskit.inference.algorithms.abc_smc import abc_smc
from bayeskit.inference.algorithms.alive import alive_filter
from bayeskit.inference.algorithms.auxiliary import auxiliary_particle_filter
from bayeskit.inference.algorithms.backward_sampling import backward_sampling, genealogy
from bayeskit.inference.algorithms.conditional_smc import conditional_smc
from bayeskit.inference.algorithms.controlled import controlled_filter
from bayeskit.inference.algorithms.correlated_marginal import correlated_pmmh
from bayeskit.inference.algorithms.fixed_lag import LaggedParticles, fixed_lag
from bayeskit.inference.algorithms.gaussian_twists import GaussianDynamics, LogQuadratic
from bayeskit.inference.algorithms.guided import guided_model
from bayeskit.inference.algorithms.ibis import ibis
from bayeskit.inference.algorithms.islands import island_filter, island_model, join_islands
from bayeskit.inference.algorithms.missing import ignore_missing
from bayeskit.inference.algorithms.mixture_kalman import (
    KalmanParticle,
    LinearGaussian,
    mixture_kalman_model,
)
from bayeskit.inference.algorithms.nested_sampling import (
    nested_sampling,
    nested_sampling_at_levels,
)
from bayeskit.inference.algorithms.nested_smc import (
    nested_smc_model,
    random_weight_model,
    weighted_draw_model,
)
from bayeskit.inference.algorithms.parallel_tempering import parallel_tempering
from bayeskit.inference.algorithms.paris import AdditiveParticle, paris
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.algorithms.particle_gibbs import particle_gibbs
from bayeskit.inference.algorithms.particle_marginal import pmmh
from bayeskit.inference.algorithms.persistent_sampling import persistent_sampling
from bayeskit.inference.algorithms.resample_move import (
    annealed_importance_sampling,
    resample_move,
)
from bayeskit.inference.algorithms.resample_move_filter import resample_move_filter
from bayeskit.inference.algorithms.reversible_jump import reversible_jump_mcmc
from bayeskit.inference.algorithms.sequential_importance import sequential_importance_sampling
from bayeskit.inference.algorithms.smc_squared import smc2
from bayeskit.inference.algorithms.sqmc import sqmc
from bayeskit.inference.algorithms.subsampling import subsampling_hmc
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc
from bayeskit.inference.algorithms.twisted import twisted_model, untwist
from bayeskit.inference.algorithms.two_filter import InformationFilter, two_filter
from bayeskit.inference.algorithms.unbiased_mcmc import unbiased_mcmc

__all__ = [
    "AdditiveParticle",
    "GaussianDynamics",
    "InformationFilter",
    "KalmanParticle",
    "LaggedParticles",
    "LinearGaussian",
    "LogQuadratic",
    "abc_smc",
    "alive_filter",
    "annealed_importance_sampling",
    "auxiliary_particle_filter",
    "backward_sampling",
    "conditional_smc",
    "controlled_filter",
    "correlated_pmmh",
    "fixed_lag",
    "genealogy",
    "guided_model",
    "ibis",
    "ignore_missing",
    "island_filter",
    "island_model",
    "join_islands",
    "mixture_kalman_model",
    "nested_sampling",
    "nested_sampling_at_levels",
    "nested_smc_model",
    "parallel_tempering",
    "paris",
    "particle_filter",
    "particle_gibbs",
    "persistent_sampling",
    "pmmh",
    "random_weight_model",
    "resample_move",
    "resample_move_filter",
    "reversible_jump_mcmc",
    "sequential_importance_sampling",
    "smc2",
    "sqmc",
    "subsampling_hmc",
    "tempered_smc",
    "twisted_model",
    "two_filter",
    "unbiased_mcmc",
    "untwist",
    "waste_free_smc",
    "weighted_draw_model",
]
