"""Maps between spaces that declare their Jacobian: bijections and involutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

__all__ = ["Bijector", "Involution"]


@dataclass(frozen=True)
class Bijector:
    r"""A smooth bijection with the logarithm of the determinant of its Jacobian.

    A density :math:`p(x)` becomes, in coordinates u with :math:`x = x(u)`,

    .. math:: \log p(x(u)) + \log |\det \partial x / \partial u|.

    Parameters
    ----------
    forward : callable (u) -> x
        From unconstrained to constrained coordinates, as many of them: leave out the last
        coordinate of a simplex, which the others determine.
    inverse : callable (x) -> u
    log_det : callable (u) -> () array
        :math:`\log |\det \partial x / \partial u|`.
    support : callable (x) -> () bool array, optional
        Whether a point lies in the declared range of ``forward``.
    name : str

    Notes
    -----
    ``bayeskit.validate(bijector, start=sampler)`` compares what is declared here with what
    automatic differentiation finds.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import validate
    >>> from bayeskit.inference import random
    >>> from bayeskit.inference.maps import Bijector
    >>> positive = Bijector(jnp.exp, jnp.log, log_det=jnp.sum, support=lambda x: jnp.all(x > 0))
    >>> draw = lambda key: random.normal(key, (2,))
    >>> validate(positive, start=draw).verdict
    'pass'
    >>> forgotten = Bijector(jnp.exp, jnp.log, log_det=lambda u: 0.0 * jnp.sum(u))
    >>> validate(forgotten, start=draw).verdict
    'fail'
    """

    forward: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    log_det: Callable[[Any], jax.Array]
    support: Callable[[Any], jax.Array] | None = None
    name: str = "bijector"


@dataclass(frozen=True)
class Involution:
    r"""A map that is its own inverse, :math:`\phi(\phi(z)) = z`.

    A move that draws an auxiliary variable v for the position x, maps :math:`z = (x, v)` to
    :math:`\phi(z)` and accepts with probability :math:`\min(1, r(z))`,

    .. math:: r(z) = \frac{\gamma(\phi(z))}{\gamma(z)}\, |\det D\phi(z)|,

    is reversible. Every Metropolis-Hastings kernel is of this form.

    Parameters
    ----------
    phi : callable (z) -> z
        On any pytree. Whole numbers may be part of it, such as the number of parameters in
        use; the Jacobian is that of all floating-point leaves, so that those not in use must
        be carried along and not overwritten.
    log_abs_det : callable (z) -> () array, optional
        :math:`\log |\det D\phi(z)|`. Default: 0, for maps that preserve volume.
    log_density : callable (z) -> () array, optional
        Log density on the extended space, :math:`\log \gamma(x) \rho(x, v)`; with it the
        identity :math:`r(\phi(z)) r(z) = 1` is checked too.
    name : str

    References
    ----------
    Green (1995), *Reversible jump Markov chain Monte Carlo computation and Bayesian model
    determination*; Tierney (1998), *A note on Metropolis-Hastings kernels for general state
    spaces*.

    Examples
    --------
    A move that multiplies x by v and notes how to come back:

    >>> import jax.numpy as jnp
    >>> from bayeskit import validate
    >>> from bayeskit.inference import random
    >>> from bayeskit.inference.maps import Involution
    >>> def scale(z):
    ...     x, v = z
    ...     return x * v, 1 / v
    >>> scaling = Involution(scale, log_abs_det=lambda z: -jnp.log(z[1]))
    >>> def draw(key):
    ...     first, second = random.split(key)
    ...     return random.normal(first), jnp.exp(random.normal(second))
    >>> validate(scaling, start=draw).verdict
    'pass'
    >>> validate(Involution(scale), start=draw).verdict
    'fail'
    """

    phi: Callable[[Any], Any]
    log_abs_det: Callable[[Any], jax.Array] | None = None
    log_density: Callable[[Any], jax.Array] | None = None
    name: str = "involution"
