r"""The log evidence of the joint Gaussian block, and the posterior of its weights.

With whitened weights v ~ N(0, I), w = L v,

.. math::

    t = H L v + \ell(\text{node}) + \text{within} + \varepsilon.

Rows are collapsed to their groups, the level is integrated out by its filter, and the weights
by one Cholesky factor: :math:`S = I + L' (D - B' (K^{-1} + \Lambda)^{-1} B) L`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from bayeskit.models.functional_tucker.additive.chain import Chain, quadratic_form
from bayeskit.models.functional_tucker.additive.collapse import Collapsed, collapse
from bayeskit.models.functional_tucker.additive.kernels import state_space_of_sum, summands

__all__ = ["Reduced", "knot_kernel", "level_chain", "log_evidence", "reduce", "weight_factor"]

# The constant has the prior N(0, 9) in units of the standardized target.
CONSTANT_SD = 3.0
# Relative to the variance; a function that is white noise of this variance is below rounding
# of any data, and keeps the factor of very smooth kernels positive.
JITTER = 1e-11


class Reduced(NamedTuple):
    """What is left when the processes within groups and the level are integrated out."""

    factor: jax.Array  # L, (weights, weights)
    cholesky: jax.Array  # of S
    mean: jax.Array  # of v, (weights)
    collapsed: Collapsed
    log_evidence: jax.Array


def knot_kernel(kernel: Any) -> Any:
    """Return the part of a kernel that is not made of features."""
    parts = [part for part in summands(kernel) if not hasattr(part, "features")]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def knot_factor(kernel: Any, knots: jax.Array) -> jax.Array:
    """Return the Cholesky factor of the covariance of a function at its knots."""
    K = knot_kernel(kernel).covariance(knots, knots)
    return jnp.linalg.cholesky(K + JITTER * K[0, 0] * jnp.eye(len(knots)))


def weight_factor(plan: Any, kernels: Any, knots: Any) -> jax.Array:
    """Return L with w = L v, block diagonal: constant, functions at knots, features."""
    blocks = [jnp.full((1, 1), CONSTANT_SD)]
    blocks += [knot_factor(kernels[i], z) for i, z in zip(plan.knots, knots, strict=True)]
    for i, j in plan.features:
        blocks.append(jnp.diag(jnp.sqrt(summands(kernels[i])[j].feature_variances())))
    return jsl.block_diag(*blocks)


def level_chain(plan: Any, kernels: Any, nodes: jax.Array) -> Chain:
    """Return the level's process on its nodes."""
    parts = [summands(kernels[i])[j] for i, j in plan.level]
    gaps = jnp.diff(nodes, prepend=nodes[:1])
    return Chain(*state_space_of_sum(parts, gaps))


def reduce(plan: Any, kernels: Any, arrays: Any, y: jax.Array, precision: jax.Array) -> Reduced:
    """Integrate out all but the weights.

    Parameters
    ----------
    plan : Plan
    kernels : tuple, one for each term
    arrays : Arrays
    y, precision : (rows) arrays, padded by zeros
    """
    within = None if plan.within is None else kernels[plan.within]
    collapsed = collapse(within, arrays, y, precision)
    gram, log_det = collapsed.gram, collapsed.log_det
    if plan.level:
        chain = level_chain(plan, kernels, arrays.nodes)
        form, level_log_det = quadratic_form(
            chain, collapsed.level_precision, collapsed.level_columns
        )
        gram, log_det = gram - form, log_det + level_log_det
    L = weight_factor(plan, kernels, arrays.knots)
    S = jnp.eye(len(L)) + L.T @ gram[:-1, :-1] @ L
    cholesky = jnp.linalg.cholesky(0.5 * (S + S.T))
    white = jsl.solve_triangular(cholesky, L.T @ gram[:-1, -1], lower=True)
    observed = precision > 0
    log_det += 2.0 * jnp.sum(jnp.log(jnp.diagonal(cholesky)))
    log_det -= jnp.sum(jnp.where(observed, jnp.log(jnp.where(observed, precision, 1.0)), 0.0))
    log_det += jnp.sum(observed) * jnp.log(2.0 * jnp.pi)
    value = -0.5 * (gram[-1, -1] - white @ white + log_det)
    mean = jsl.solve_triangular(cholesky, white, lower=True, trans=1)
    return Reduced(L, cholesky, mean, collapsed, value)


def log_evidence(plan: Any, kernels: Any, arrays: Any, y: Any, precision: Any) -> jax.Array:
    """Return log p(y | kernels, precision), exact and differentiable in both."""
    return reduce(plan, kernels, arrays, y, precision).log_evidence
