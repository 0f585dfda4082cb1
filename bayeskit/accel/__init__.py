"""Kernels on arrays: weights, resampling, gathering, prefix sums and random keys.

Arrays in, arrays out; nothing here knows a probability model. Everything is pure and works
under ``jit``, ``vmap`` and ``grad``, on every platform, in 32-bit and in 64-bit mode.

In 32-bit mode JAX takes the float64 numbers of NumPy for float32, here as everywhere. Each new
number of particles or of time steps is compiled anew, in 0.3 to 3 seconds of processor time.
"""

from bayeskit.accel.dispatch import backend, backend_report
from bayeskit.accel.gather import take_particles
from bayeskit.accel.groups import pool_groups, ring_exchange, unpool_groups
from bayeskit.accel.hilbert import hilbert_index, hilbert_order
from bayeskit.accel.kernels import triton as _triton  # noqa: F401  (registers them)
from bayeskit.accel.kernels.cpu import build_cpu_kernels
from bayeskit.accel.noise import fold_words, normal_of_words, random_normals, random_words
from bayeskit.accel.offspring import (
    cumulative_offspring,
    offspring_to_ancestors,
    permute_for_inplace,
    scaled_cdf,
)
from bayeskit.accel.prng import as_key
from bayeskit.accel.resampling import (
    SCHEME_NAMES,
    SCHEMES,
    Ancestors,
    Scheme,
    Transported,
    WeightedAncestors,
    keeps_number,
    killing,
    multinomial,
    rejection,
    resample_and_gather,
    residual,
    residual_multinomial,
    ssp,
    stratified,
    systematic,
    threshold,
    transport,
)
from bayeskit.accel.scan import prefix_sum
from bayeskit.accel.sharding import (
    current_mesh,
    gathered,
    on_host,
    on_mesh,
    particle_mesh,
    spread,
    total,
)
from bayeskit.accel.storing import stored
from bayeskit.accel.time.associative import blocked_associative_scan
from bayeskit.accel.time.chain import (
    Filtered,
    GaussianChain,
    GaussianSites,
    LinearObservations,
    Smoothed,
)
from bayeskit.accel.time.covariance_form import kalman_predict, kalman_update
from bayeskit.accel.time.hidden_markov import (
    FilteredStates,
    HiddenMarkovModel,
    hidden_markov_filter,
    hidden_markov_log_evidence,
    hidden_markov_most_likely_path,
    hidden_markov_sample,
    hidden_markov_smoother,
)
from bayeskit.accel.time.kalman import (
    kalman_filter,
    kalman_log_evidence,
    kalman_sample,
    kalman_smoother,
)
from bayeskit.accel.weights import (
    Weights,
    effective_sample_size,
    log_mean_exp,
    normalize,
    temper_step,
)

__all__ = [
    "SCHEMES",
    "SCHEME_NAMES",
    "Ancestors",
    "Filtered",
    "FilteredStates",
    "GaussianChain",
    "GaussianSites",
    "HiddenMarkovModel",
    "LinearObservations",
    "Scheme",
    "Smoothed",
    "Transported",
    "WeightedAncestors",
    "Weights",
    "as_key",
    "backend",
    "backend_report",
    "blocked_associative_scan",
    "build_cpu_kernels",
    "cumulative_offspring",
    "current_mesh",
    "effective_sample_size",
    "fold_words",
    "gathered",
    "hidden_markov_filter",
    "hidden_markov_log_evidence",
    "hidden_markov_most_likely_path",
    "hidden_markov_sample",
    "hidden_markov_smoother",
    "hilbert_index",
    "hilbert_order",
    "kalman_filter",
    "kalman_log_evidence",
    "kalman_predict",
    "kalman_sample",
    "kalman_smoother",
    "kalman_update",
    "keeps_number",
    "killing",
    "log_mean_exp",
    "multinomial",
    "normal_of_words",
    "normalize",
    "offspring_to_ancestors",
    "on_host",
    "on_mesh",
    "particle_mesh",
    "permute_for_inplace",
    "pool_groups",
    "prefix_sum",
    "random_normals",
    "random_words",
    "rejection",
    "resample_and_gather",
    "residual",
    "residual_multinomial",
    "ring_exchange",
    "scaled_cdf",
    "spread",
    "ssp",
    "stored",
    "stratified",
    "systematic",
    "take_particles",
    "temper_step",
    "threshold",
    "total",
    "transport",
    "unpool_groups",
]
