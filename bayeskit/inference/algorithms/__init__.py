"""Algorithms, each a few lines of blocks."""

from bayeskit.inference.algorithms.controlled import (
    GaussianDynamics,
    LogQuadratic,
    controlled_filter,
)
from bayeskit.inference.algorithms.correlated_marginal import correlated_pmmh
from bayeskit.inference.algorithms.islands import island_filter, island_model, join_islands
from bayeskit.inference.algorithms.nested_smc import (
    nested_smc_model,
    random_weight_model,
    weighted_draw_model,
)
from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.algorithms.particle_marginal import pmmh
from bayeskit.inference.algorithms.resample_move import resample_move_filter
from bayeskit.inference.algorithms.smc_squared import smc2
from bayeskit.inference.algorithms.sqmc import sqmc
from bayeskit.inference.algorithms.tempered_smc import tempered_smc, waste_free_smc
from bayeskit.inference.algorithms.twisted import twisted_model

__all__ = [
    "GaussianDynamics",
    "LogQuadratic",
    "controlled_filter",
    "correlated_pmmh",
    "island_filter",
    "island_model",
    "join_islands",
    "nested_smc_model",
    "particle_filter",
    "pmmh",
    "random_weight_model",
    "resample_move_filter",
    "smc2",
    "sqmc",
    "tempered_smc",
    "twisted_model",
    "waste_free_smc",
    "weighted_draw_model",
]
