r"""What training minimises: the expected negative log density of posterior draws.

.. math:: E_{\phi, z} \left[ -\sum_s \bar w_s \log q(u_s \mid z, \phi) \right]
          = E_{\phi, z}\, KL(p(\cdot|z,\phi) \,\|\, q(\cdot|z,\phi)) + \mathrm{const}

The latent that made the data is a draw from the posterior. Where the likelihood is known, it is
joined by draws from a proposal r, all weighed by posterior over proposal. Choosing one of them
by these weights is a move of iterated sampling importance resampling, which leaves the
posterior as it is: the average over them has the same expectation as the one draw, and less
variance.

The gradient is taken of another sum over the S draws from the proposal,

.. math:: -\frac{1}{S} \sum_s \left[ \frac{p(u_s, z)}{\hat Z\, r(u_s)}
          - \frac{q(u_s)}{r(u_s)} \right] \nabla \log q(u_s),

in which the second term has expectation zero, for :math:`\int q \nabla \log q = 0`. Its noise
vanishes as q becomes the posterior. An estimate of the evidence that is off only scales what a
problem has to say.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.frames import change
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.network import Network
from bayeskit.models.distribution_transformer.task import Problems, Start, Task
from bayeskit.models.distribution_transformer.tokens import Scaling, Tokens, of_problems

__all__ = [
    "Batch",
    "batch_of",
    "draw_batch",
    "loss_and_gradient",
    "may_change",
    "mean_loss",
    "posterior_of",
]

# The proposal: components of the start, made wider, and the prior, so that no ratio of
# posterior and proposal is large.
_WIDENING = 1.25
_SHARE_OF_PRIOR = 0.2
# Largest ratio of posterior and proposal, where the evidence was estimated much too small.
_LARGEST_RATIO = 30.0
# Of the network over the proposal, which only guards against overflow.
_LARGEST_EXPONENT = 10.0


class Batch(NamedTuple):
    """Problems as the network sees them, and weighted draws from their posteriors.

    Attributes
    ----------
    tokens : Tokens
    base : Mixture
    is_free : (batch,) array of bool
        Whether the network may change ``base``.
    points : (batch, s, d) array
    shares : (batch, s) array
        Adding up to 1 for each problem.
    ratios : (batch, s) array
        Posterior over proposal, divided by the number of draws; 0 for what is no draw from it.
    log_proposal : (batch, s) array
        Infinite for what is no draw from it.
    """

    tokens: Tokens
    base: Mixture
    is_free: jax.Array
    points: jax.Array
    shares: jax.Array
    ratios: jax.Array
    log_proposal: jax.Array


def draw_batch(
    task: Task, key: jax.Array, batch: int, num_draws: int, scaling: Scaling
) -> Batch:
    """Return fresh problems with ``num_draws + 1`` weighted draws each."""
    of_problem, of_points = jax.random.split(key)
    problems, u = task.draw(of_problem, batch)
    start = task.start(problems, scaling.linear)
    return batch_of(task, of_points, problems, u, start, num_draws, scaling)


def batch_of(
    task: Task,
    key: jax.Array,
    problems: Problems,
    u: jax.Array,
    start: Start,
    num_draws: int,
    scaling: Scaling,
) -> Batch:
    """Return problems that were drawn before with ``num_draws + 1`` weighted draws each."""
    tokens = of_problems(task, problems, start, scaling)
    weighted = _weighted_draws(task, key, problems, start, u, num_draws)
    return Batch(tokens, start.base, may_change(task, start), *weighted)


def may_change(task: Task, start: Start) -> jax.Array:
    """Without data a mixture is its own posterior; another family is still to be fitted."""
    if task.meta_prior.is_mixture:
        return start.has_data
    return jnp.ones_like(start.has_data)


def _weighted_draws(
    task: Task, key: jax.Array, problems: Problems, start: Start, u: jax.Array, num_draws: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return points, shares, ratios and log densities of the proposal, as in a batch."""
    if not task.simulator.has_log_likelihood or not num_draws:
        one = jnp.ones((len(u), 1), u.dtype)
        return u[:, None, :], one, one, jnp.full_like(one, jnp.inf)
    if task.kind == "prior":
        start = _with_warm_start(task).start(problems)
    proposal = Mixture(
        jnp.concatenate(
            [
                start.base.log_weights + np.log1p(-_SHARE_OF_PRIOR),
                start.prior.log_weights + np.log(_SHARE_OF_PRIOR),
            ],
            axis=-1,
        ),
        jnp.concatenate([start.base.means, start.prior.means], axis=-2),
        jnp.concatenate(
            [_WIDENING * start.base.factors, _WIDENING * start.prior.factors], axis=-3
        ),
    )
    drawn = jnp.moveaxis(mixture_arrays.draws(key, proposal, num_draws), 0, 1)
    points = jnp.concatenate([u[:, None, :], drawn], axis=1)
    log_proposal = mixture_arrays.log_density(
        Mixture(*(leaf[:, None] for leaf in proposal)), points
    )
    log_joint = jax.vmap(lambda p, x: jax.vmap(lambda one: task.log_joint(p, one))(x))
    ratio = log_joint(problems, points) - log_proposal
    ratio = jnp.where(jnp.isfinite(ratio), ratio, -jnp.inf)
    # Should not even the true latent have a density, it is all that there is.
    first = jnp.arange(points.shape[1]) == 0
    is_lost = (ratio == -jnp.inf).all(axis=1, keepdims=True)
    shares = jax.nn.softmax(jnp.where(is_lost & first, 0.0, ratio), axis=1)
    evidence = start.log_evidence[:, None] + np.log(num_draws)
    if task.kind == "linearised":
        # That of summaries is in units of its own.
        evidence = jax.nn.logsumexp(ratio[:, 1:], axis=1, keepdims=True)
    ratios = jnp.exp(jnp.minimum(ratio - evidence, np.log(_LARGEST_RATIO / num_draws)))
    return (
        points,
        shares,
        jnp.where(first, 0.0, ratios),
        jnp.where(first, jnp.inf, log_proposal + np.log(num_draws)),
    )


def _with_warm_start(task: Task) -> Task:
    return Task(task.meta_prior, task.simulator, task.support, task.num_components, True)


def posterior_of(
    network: Network, weights: dict, tokens: Tokens, base: Mixture, is_free: jax.Array
) -> Mixture:
    """Return the posterior mixtures of a batch, in the precision of ``base``."""
    narrow = jax.tree.map(_as_float32, tokens)
    by = jax.tree.map(lambda leaf: leaf.astype(base.means.dtype), network(weights, narrow))
    changed = change(base, by)

    def chosen(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(is_free.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(chosen, changed, base)


def _as_float32(leaf: jax.Array) -> jax.Array:
    """Return numbers in the precision of the network, which needs no more."""
    return leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _log_q(network: Network, weights: dict, batch: Batch) -> jax.Array:
    """Return the log density (batch, s) of the posteriors at the points."""
    mixture = posterior_of(network, weights, batch.tokens, batch.base, batch.is_free)
    at_points = Mixture(*(leaf[:, None] for leaf in mixture))
    return mixture_arrays.log_density(at_points, batch.points)


def mean_loss(network: Network, weights: dict, batch: Batch) -> jax.Array:
    """Return the objective on a batch."""
    return -(batch.shares * _log_q(network, weights, batch)).sum(axis=1).mean()


def loss_and_gradient(network: Network, weights: dict, batch: Batch) -> tuple:
    """Return the objective on a batch, and its gradient with less noise."""

    def estimate(weights: dict) -> tuple[jax.Array, jax.Array]:
        log_q = _log_q(network, weights, batch)
        own = jnp.exp(jnp.minimum(log_q - batch.log_proposal, _LARGEST_EXPONENT))
        excess = jax.lax.stop_gradient(batch.ratios - own)
        loss = -(batch.shares * log_q).sum(axis=1).mean()
        return -(excess * log_q).sum(axis=1).mean(), loss

    (_, loss), gradient = jax.value_and_grad(estimate, has_aux=True)(weights)
    return loss, gradient
