"""Derivatives of posterior moments by the prior."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.compilation import quick_jit
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.network import Network
from bayeskit.models.distribution_transformer.programs import amortised
from bayeskit.models.distribution_transformer.task import Problems, Task
from bayeskit.models.distribution_transformer.tokens import Scaling

__all__ = ["derivatives"]


@functools.partial(quick_jit, static_argnums=(0, 1))
def derivatives(
    task: Task, network: Network, weights: Any, scaling: Scaling, problems: Problems
) -> dict[str, dict[str, jax.Array]]:
    """Return derivatives at the first problem, in forward mode: the mode is found by a loop."""

    def moments(moved: dict[str, jax.Array]) -> dict[str, jax.Array]:
        prior = _moved_prior(task, problems.prior, moved)
        mixture, _ = amortised(task, network, weights, scaling, problems._replace(prior=prior))
        mean, covariance = mixture_arrays.moments(mixture)
        variance = jnp.diagonal(covariance, axis1=-2, axis2=-1)
        return {"mean": mean[0], "log_std": 0.5 * jnp.log(variance[0])}

    return jax.jacfwd(moments)(_no_move(task, problems.prior))


def _no_move(task: Task, prior: Any) -> dict[str, jax.Array]:
    if not task.meta_prior.is_mixture:
        return {"parameters": jnp.zeros_like(prior[0])}
    zeros = jnp.zeros_like(prior.log_weights[0])
    return {"log_weights": zeros, "means": jnp.zeros_like(prior.means[0]), "log_scales": zeros}


def _moved_prior(task: Task, prior: Any, moved: dict[str, jax.Array]) -> Any:
    if not task.meta_prior.is_mixture:
        return prior + moved["parameters"]
    return Mixture(
        jax.nn.log_softmax(prior.log_weights + moved["log_weights"], axis=-1),
        prior.means + moved["means"],
        prior.factors * jnp.exp(moved["log_scales"])[:, None, None],
    )
