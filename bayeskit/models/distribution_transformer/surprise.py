"""How unusual data are for their prior: the tail of the log evidence."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.distribution_transformer.task import Problems, Task

__all__ = ["NUM_SIMULATED", "PredictiveCheck", "checked_against_prior"]

NUM_SIMULATED = 255


class PredictiveCheck(NamedTuple):
    """Data beside what the prior predicts.

    Attributes
    ----------
    tail_probability : (batch,) array
        Share of data sets, simulated from the prior and this one, with as small an evidence;
        at least 1/256.
    log_evidence : (batch,) array
        As the warm start has it.
    lowest : (batch,) array
        Log evidence of the least likely of 255 simulated data sets.
    is_unusual : (batch,) array of bool
        Whether the log evidence is below the median of the simulated ones by more than twice
        the distance of the lowest of them.

    Examples
    --------
    Data that no simulation from N(0, 2) comes near:

    >>> import bayeskit as bk
    >>> from bayeskit.models.distribution_transformer import (
    ...     GaussianMixtureMetaPrior,
    ...     LinearGaussian,
    ... )
    >>> dt = bk.DistributionTransformer(
    ...     simulator=LinearGaussian(1.0, 1.0, num_observations=(1, 10)),
    ...     meta_prior=GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
    ...     random_state=0,
    ... ).fit()
    >>> prior = bk.GaussianMixture([1.0], [0.0], [1.0])
    >>> check = dt.predictive_check([6.0], prior=prior, random_state=0)
    >>> check.log_evidence.round(2).tolist(), check.tail_probability.round(4).tolist()
    ([-10.27], [0.0039])
    """

    tail_probability: np.ndarray
    log_evidence: np.ndarray
    lowest: np.ndarray
    is_unusual: np.ndarray


@functools.partial(quick_jit, static_argnums=0, optimised=False)
def _log_evidences(task: Task, key: jax.Array, problem: Problems) -> jax.Array:
    """Return the log evidence of one problem, and of data simulated from its prior."""
    latent_key, data_key = jax.random.split(key)
    many = jax.tree.map(lambda a: jnp.broadcast_to(a, (NUM_SIMULATED, *a.shape)), problem)
    u = task.meta_prior.draw_latent(latent_key, many.prior)
    keys = jax.random.split(data_key, NUM_SIMULATED)
    x = task.support.constrain(u)
    rows = jax.vmap(task.simulator.simulate_rows)(keys, x, many.vector)
    everything = jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b]), problem, many._replace(rows=rows)
    )
    return task.start(everything).log_evidence


def checked_against_prior(task: Task, problems: Problems, keys: Any) -> PredictiveCheck:
    """Return how unusual the data of each problem are for its prior.

    Parameters
    ----------
    problems : Problems
        With as many rows as the simulator draws.
    keys : sequence of JAX keys
        One for each problem.

    Notes
    -----
    If the log evidence is minus half of a chi-square number with one degree of freedom, as for
    one normal observation, ordinary data are called unusual once in some 30,000 times.
    """
    found = []
    for b, key in enumerate(keys):
        one = jax.tree.map(lambda a, b=b: np.array(a[b]), problems)
        found.append(np.asarray(_log_evidences(task, key, one), np.float64))
    values = np.array(found)
    own, simulated = values[:, 0], values[:, 1:]
    lowest, median = simulated.min(axis=1), np.median(simulated, axis=1)
    tail = (1 + (simulated <= own[:, None]).sum(axis=1)) / (NUM_SIMULATED + 1)
    return PredictiveCheck(tail, own, lowest, own < median - 2.0 * (median - lowest))
