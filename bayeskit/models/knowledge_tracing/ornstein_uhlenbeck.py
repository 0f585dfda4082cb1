r"""Ornstein-Uhlenbeck states that pull at one another along a graph, over any time exactly.

The states x (one for each knowledge component) of one time scale T and stationary scale s obey

.. math:: dx = -(I - N)\,x\,du + \sqrt{2}\,s\,dW, \qquad u = t / T, \qquad N = \gamma A',

with :math:`A_{ik} \ge 0` the influence of component i on k. With
:math:`\pi_j(u) = e^{-u} u^j / j!` the transition is a sum of positive terms,

.. math::
    E(u) = e^{-(I - N) u} = \sum_j \pi_j(u)\, N^j, \qquad
    Q(u) = s^2 \sum_n P(n + 1, 2u)\, \gamma^n C_n, \qquad
    C_n = 2^{-n} \sum_{i + j = n} \binom{n}{i} A'^i A^j,

where P is the regularised incomplete gamma function. The powers belong to the graph alone, so
that each learner and each gap costs only weighted sums of them; for a graph without cycles the
sums end with its longest path, and nothing is truncated. No two numbers cancel, for gaps of a
second and of a month alike, and :math:`E(u)E(v) = E(u + v)` to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaln, xlogy

__all__ = [
    "Influence",
    "exact_transition",
    "fixed_point",
    "frozen_parent_transition",
    "influence_of",
    "num_powers",
    "powers_of",
    "stationary_covariance",
]

# Terms of the sums for graphs with cycles, whose powers never vanish.
_MAX_POWERS = 400


class Influence(NamedTuple):
    """Powers of a graph.

    Parameters
    ----------
    powers : (num_powers, num_kc, num_kc) array
        :math:`A'^j`; entry 0 is the identity.
    products : (2 num_powers - 1, num_kc, num_kc) array
        The matrices :math:`C_n`.
    """

    powers: Any
    products: Any


def num_powers(A: np.ndarray, max_transfer: float = 1.0) -> int:
    """Return after how many powers the rest of the sums is below rounding."""
    term = np.asarray(A, np.float64).T
    size = np.abs(term).sum()
    power, number = term.copy(), 1
    while size > 1e-17 and number < _MAX_POWERS:
        power = max_transfer * (power @ term)
        size = np.abs(power).sum(axis=1).max()
        number += 1
    return number


def powers_of(A: Any, num: int) -> Influence:
    """Return the powers of a graph (num_kc, num_kc), differentiable in it.

    Parameters
    ----------
    A : (num_kc, num_kc) array
        Entry (i, k): influence of i on k.
    num : int
        See :func:`num_powers`.
    """
    xp: Any = np if isinstance(A, np.ndarray) else jnp
    step, identity = A.T, xp.eye(A.shape[0], dtype=A.dtype)
    powers, products = [identity], [identity]
    for _ in range(num - 1):
        powers.append(powers[-1] @ step)
    # From the left and from the right a matrix acts independently, hence the binomials.
    for _ in range(2 * num - 2):
        products.append(0.5 * (step @ products[-1] + products[-1] @ step.T))
    return Influence(xp.stack(powers), xp.stack(products))


def influence_of(A: np.ndarray, max_transfer: float = 1.0) -> Influence:
    """Return the powers of a fixed graph as NumPy arrays in double precision.

    Parameters
    ----------
    A : (num_kc, num_kc) array
    max_transfer : float
        The largest γ that will be asked for.
    """
    A = np.asarray(A, np.float64)
    return powers_of(A, num_powers(A, max_transfer))


def _poisson(u: jax.Array, num: int) -> jax.Array:
    """Return the Poisson probabilities of 0, ..., num - 1 with mean u, (num,)."""
    j = jnp.arange(num, dtype=u.dtype)
    safe = jnp.where(u > 0, u, 1.0)
    log = xlogy(j, safe) - safe - gammaln(j + 1.0)
    return jnp.where(u > 0, jnp.exp(log), jnp.where(j == 0, 1.0, 0.0))


def _incomplete_gamma(x: jax.Array, num: int) -> jax.Array:
    """Return P(n, x) for n = 1, ..., num: from the top down all terms are positive."""
    safe = jnp.where(x > 0, x, 1.0)
    top = jnp.where(x > 0, gammainc(jnp.asarray(num, x.dtype), safe), 0.0)
    below = _poisson(x, num)[1:]
    added = jnp.cumsum(below[::-1])[::-1]
    return jnp.concatenate([top + added, top[None]])


def exact_transition(
    influence: Influence, transfer: Any, u: Any, variance: Any
) -> tuple[jax.Array, jax.Array]:
    r"""Return E(u) and Q(u), each (num_kc, num_kc).

    Parameters
    ----------
    influence : Influence
    transfer : () array in [0, 1)
        γ, the strength of the graph.
    u : () array, at least 0
        The gap in units of the time scale.
    variance : () array
        s², the stationary variance of a state that nothing pulls at.
    """
    powers, products = (jnp.asarray(part) for part in influence)
    u, transfer = jnp.asarray(u, powers.dtype), jnp.asarray(transfer, powers.dtype)
    num = powers.shape[0]
    E = jnp.tensordot(_poisson(u, num) * transfer ** jnp.arange(num), powers, 1)
    weights = _incomplete_gamma(2.0 * u, 2 * num - 1) * transfer ** jnp.arange(2 * num - 1)
    return E, variance * jnp.tensordot(weights, products, 1)


def frozen_parent_transition(
    influence: Influence, transfer: Any, u: Any, variance: Any
) -> tuple[jax.Array, jax.Array]:
    r"""Return the published transition, in which parents stand still over the gap.

    .. math:: E(u) = e^{-u} I + (1 - e^{-u}) N, \qquad Q(u) = s^2 (1 - e^{-2u}) I

    Two steps of u/2 are not one step of u: a time at which nothing is observed changes the
    forecast. See :func:`exact_transition` for the parameters.
    """
    powers = jnp.asarray(influence.powers)
    eye = powers[0]
    N = transfer * powers[1] if powers.shape[0] > 1 else jnp.zeros_like(eye)
    stay = jnp.exp(-jnp.asarray(u, powers.dtype))
    E = stay * eye - jnp.expm1(-jnp.asarray(u, powers.dtype)) * N
    return E, -variance * jnp.expm1(-2.0 * jnp.asarray(u, powers.dtype)) * eye


def fixed_point(influence: Influence, transfer: Any, level: Any) -> jax.Array:
    r"""Return where states come to rest about a level, :math:`(I - N)^{-1} \mu 1`."""
    powers = jnp.asarray(influence.powers)
    weights = transfer ** jnp.arange(powers.shape[0])
    return level * jnp.tensordot(weights, powers, 1).sum(axis=1)


def stationary_covariance(influence: Influence, transfer: Any, variance: Any) -> jax.Array:
    """Return Q(∞) of the exact transition."""
    products = jnp.asarray(influence.products)
    weights = transfer ** jnp.arange(products.shape[0])
    return variance * jnp.tensordot(weights, products, 1)
