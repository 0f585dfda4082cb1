r"""The log evidence of the joint Gaussian block, and the posterior of its weights.

With whitened weights :math:`v \sim N(0, I)`, w = L v,

.. math:: t = H L v + \ell(\text{node}) + \text{within} + \varepsilon.

Rows are collapsed to their groups, the level is integrated out by its filter, and the weights
by one Cholesky factor of :math:`S = I + L^\top (D - B^\top (K^{-1} + \Lambda)^{-1} B) L`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from bayeskit.accel import GaussianSites, kalman_filter
from bayeskit.inference.gp_kernels import chain_of
from bayeskit.models.functional_tucker.additive.collapse import collapse
from bayeskit.models.functional_tucker.additive.plan import features, part_of
from bayeskit.models.functional_tucker.terms import covariance

__all__ = [
    "Reduced",
    "columns_of",
    "knot_factor",
    "level_chain",
    "log_evidence",
    "reduce",
    "sites",
]

# The constant has the prior N(0, 9) in units of the standardized target.
CONSTANT_STD = 3.0
# Relative to the variance; white noise of this variance is below the rounding of any data, and
# keeps the factor of very smooth kernels positive.
JITTER = 1e-11


class Reduced(NamedTuple):
    """What is left when the processes within groups and the level are integrated out."""

    factor: jax.Array  # L, (weights, weights)
    cholesky: jax.Array  # of S
    mean: jax.Array  # of v, (weights)
    level_precision: jax.Array  # Lambda, (nodes)
    level_columns: jax.Array  # (nodes, weights + 1): B, and the same of y
    log_evidence: jax.Array


def columns_of(blocks: Any, kernels: Any, values: Any) -> list[jax.Array]:
    """Return the columns of each block: interpolation from knots as it is, or features."""
    return [
        value if block.part is None else features(part_of(kernels, block), value)
        for block, value in zip(blocks, values, strict=True)
    ]


def knot_factor(kernel: Any, knots: jax.Array) -> jax.Array:
    """Return the Cholesky factor of the covariance of a function at its knots."""
    K = covariance(kernel, knots, knots)
    return jnp.linalg.cholesky(K + JITTER * K[0, 0] * jnp.eye(len(knots)))


def weight_factor(plan: Any, kernels: Any, arrays: Any, sizes: list[int]) -> jax.Array:
    """Return L with w = L v: the constant, functions at knots, features (whose L is 1)."""
    blocks = [jnp.full((1, 1), CONSTANT_STD)]
    for block, knots, size in zip(plan.weights, arrays.knots, sizes, strict=True):
        is_knots = block.part is None
        blocks.append(
            knot_factor(part_of(kernels, block), knots) if is_knots else jnp.eye(size)
        )
    return jsl.block_diag(*blocks)


def level_chain(plan: Any, kernels: Any, nodes: jax.Array, gaps: jax.Array) -> Any:
    """Return the level's process on its nodes as a chain of states."""
    first, *others = (kernels[i].terms[j] for i, j in plan.level)
    return chain_of(sum(others, start=first), nodes, gaps)


def _integrate_level(chain: Any, precision: jax.Array, eta: jax.Array) -> tuple:
    """Return eta' (K^-1 + Lambda)^-1 eta and log det(I + K Lambda), by one filter.

    All columns of eta share the covariances, which are computed once.
    """

    def predict(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = kalman_filter(chain.states, sites(chain, precision, shift))
        return found.predicted_mean, found.predicted_covariance

    means, covariances = jax.vmap(predict, in_axes=1, out_axes=(2, None))(eta)
    h = chain.matrix[:, 0]
    predicted = jnp.einsum("td,tdc->tc", h, means)
    variance = jnp.einsum("td,tde,te->t", h, covariances, h)
    residual = eta - precision[:, None] * predicted
    spread = 1.0 + precision * variance
    cross = eta.T @ predicted
    form = (
        cross
        + cross.T
        - predicted.T @ (precision[:, None] * predicted)
        + residual.T @ ((variance / spread)[:, None] * residual)
    )
    return form, jnp.sum(jnp.log(spread))


def sites(chain: Any, precision: jax.Array, shift: jax.Array) -> GaussianSites:
    """Return what rows say of the level's values at its nodes."""
    return GaussianSites(shift[:, None], precision[:, None, None], chain.matrix)


def reduce(plan: Any, kernels: Any, arrays: Any, y: jax.Array, precision: jax.Array) -> Reduced:
    """Integrate out all but the weights.

    Parameters
    ----------
    plan : Plan
    kernels : tuple, one for each term
    arrays : Arrays
    y, precision : (rows) arrays, padded by zeros
    """
    ones = jnp.ones((len(arrays.nodes), 1))
    on_nodes = columns_of(plan.on_nodes, kernels, arrays.node_columns)
    on_rows = columns_of(plan.on_rows, kernels, arrays.row_columns)
    node_columns = jnp.concatenate([ones, *on_nodes], axis=1)
    row_columns = jnp.concatenate([jnp.zeros((len(y), 0)), *on_rows], axis=1)
    within = None if plan.within is None else kernels[plan.within]
    rows = collapse(within, arrays, row_columns, y, precision)

    # Columns that are constant within groups need no rows.
    weighted = rows.precision[:, None] * node_columns
    eta = jnp.concatenate([weighted, rows.columns], axis=1)
    corner = node_columns.T @ rows.columns
    gram = jnp.block([[node_columns.T @ weighted, corner], [corner.T, rows.gram]])
    log_det = rows.log_det
    if plan.level:
        chain = level_chain(plan, kernels, arrays.nodes, arrays.gaps)
        form, level_log_det = _integrate_level(chain, rows.precision, eta)
        gram, log_det = gram - form, log_det + level_log_det

    L = weight_factor(plan, kernels, arrays, [c.shape[1] for c in (*on_nodes, *on_rows)])
    S = jnp.eye(len(L)) + L.T @ gram[:-1, :-1] @ L
    cholesky = jnp.linalg.cholesky(0.5 * (S + S.T))
    white = jsl.solve_triangular(cholesky, L.T @ gram[:-1, -1], lower=True)
    mean = jsl.solve_triangular(cholesky, white, lower=True, trans=1)
    observed = precision > 0
    log_det += 2.0 * jnp.sum(jnp.log(jnp.diagonal(cholesky)))
    log_det -= jnp.sum(jnp.where(observed, jnp.log(jnp.where(observed, precision, 1.0)), 0.0))
    log_det += jnp.sum(observed) * jnp.log(2.0 * jnp.pi)
    value = -0.5 * (gram[-1, -1] - white @ white + log_det)
    return Reduced(L, cholesky, mean, rows.precision, eta, value)


def log_evidence(plan: Any, kernels: Any, arrays: Any, y: Any, precision: Any) -> jax.Array:
    """Return log p(y | kernels, precision), exact and differentiable in both."""
    return reduce(plan, kernels, arrays, y, precision).log_evidence
