"""Paths of states for draws of parameters that were kept without them."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import ConvergenceWarning, ParticleCollapseError
from bayeskit.inference import random
from bayeskit.inference.algorithms.path_exchange import log_exchange, with_path
from bayeskit.inference.state_space_target import StateSpaceTarget

__all__ = ["paths_of_parameters"]

# Filters of one call of the compiled program: each keeps its whole history.
_CHUNK = 50
# Fewer effective paths than this share are no more than a hint.
_MIN_SHARE = 0.05


def paths_of_parameters(
    target: StateSpaceTarget,
    theta: np.ndarray,
    log_estimates: np.ndarray,
    num_particles: int,
    scheme: str,
    key: Any,
) -> Any:
    """Return paths (num, num_steps, ...), equally weighted, for draws of the parameters.

    Parameters
    ----------
    theta : (num, dim) array
        Equally weighted draws of SMC² or PMMH.
    log_estimates : (num,) array
        Of the likelihood, as they were drawn with: see :func:`exchange_for_paths`.
    num_particles, scheme
        Of the new filters.

    Raises
    ------
    ParticleCollapseError
        If all new filters lose their particles.
    """
    pieces, num = [], len(theta)
    for begin in range(0, num, _CHUNK):
        # Filled up by the last, so that one program serves all.
        index = np.minimum(begin + np.arange(_CHUNK), num - 1)
        drawn = _drawn(target, theta[index], num_particles, scheme, random.fold_in(key, begin))
        here = min(_CHUNK, num - begin)
        pieces.append(jax.tree.map(lambda x, n=here: np.asarray(x)[:n], drawn))
    new, paths = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
    log_weights = np.asarray(log_exchange(log_estimates, new), np.float64)
    if not np.isfinite(log_weights.max()):
        raise ParticleCollapseError(
            f"the filters of all {num} parameters lost their particles: take more of them"
        )
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    share = 1 / (num * np.sum(weights**2))
    if share < _MIN_SHARE:
        warnings.warn(
            f"the paths are worth {share * num:.1f} of {num} independent ones, as likelihoods "
            "are noisy: take more particles",
            ConvergenceWarning,
            stacklevel=5,
        )
    chosen = random.host_generator(key, num).choice(num, num, p=weights)
    return jax.tree.map(lambda x: x[chosen], paths)


@quick_jit(static_argnames=("num_particles", "scheme"))
def _drawn(
    target: StateSpaceTarget, theta: jax.Array, num_particles: int, scheme: str, key: Any
) -> tuple[Any, Any]:
    def one(lane_key, parameters):
        state = with_path(lane_key, target.feynman_kac, parameters, num_particles, scheme)
        return state.log_estimate, state.sample

    return random.lanes(one, key, theta)
