"""Bridges that start from a reference mixed with the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import ImproperPriorError
from bayeskit.inference import random
from bayeskit.inference.kernels.base import Tuning
from bayeskit.inference.measure import Target
from bayeskit.inference.paths.geometric import geometric_bridge

__all__ = ["defensive_bridge", "student_bridge"]

# Of the prior in the mixture. The importance weights of the posterior are then at most 20 times
# the likelihood, whatever its tails; a draw in 20 is wasted where the prior is broad.
PRIOR_SHARE = 0.05
# As few as leave the covariance and the kurtosis of the reference finite.
DEGREES_OF_FREEDOM = 5


@dataclass(frozen=True)
class _Mixture:
    """The mixture of a prior and a reference, whose parameters follow share and prior data."""

    prior: Callable
    reference: Callable
    num_data: int

    def split(self, values: tuple) -> tuple[tuple, tuple]:
        return values[: self.num_data], values[self.num_data :]


class _LogMixture(_Mixture):
    def __call__(self, x: Any, prior_share: jax.Array, *values: Any) -> jax.Array:
        data, parameters = self.split(values)
        return jnp.logaddexp(
            jnp.log(prior_share) + self.prior(x, *data),
            jnp.log1p(-prior_share) + self.reference(x, *parameters),
        )


class _SampleMixture(_Mixture):
    def __call__(self, key: Any, prior_share: jax.Array, *values: Any) -> Any:
        data, parameters = self.split(values)
        choice_key, prior_key, reference_key = random.split(key, 3)
        from_prior = random.accept(choice_key, jnp.log(prior_share))
        return jax.tree.map(
            lambda a, b: jnp.where(from_prior, a, b),
            self.prior(prior_key, *data),
            self.reference(reference_key, *parameters),
        )


def defensive_bridge(
    target: Target,
    log_reference: Callable,
    sample_reference: Callable,
    parameters: tuple = (),
    prior_share: Any = PRIOR_SHARE,
) -> Target:
    r"""Return a bridge to a target from a mixture of its prior and a reference.

    .. math::
        q(x) = \alpha\, p(x) + (1 - \alpha)\, r(x), \qquad
        \gamma_\lambda(x) = q(x)^{1 - \lambda}\, (p(x)\, L(x))^\lambda .

    The prior keeps the weights bounded where the reference r has lighter tails than the
    posterior or leaves out a part of it: :math:`p L / q \le L / \alpha`.

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior
    log_reference, sample_reference, parameters
        As in :func:`geometric_bridge`.
    prior_share : float in [0, 1], or () array
        :math:`\alpha`. It is data: with 1 the path is the one from the prior, run by the same
        compiled program.

    Returns
    -------
    Target
        With the same evidence.

    Raises
    ------
    ImproperPriorError
        If the target has no prior to start from.
    ValueError
        For a share outside [0, 1].

    References
    ----------
    Hesterberg (1995), *Weighted average importance sampling and defensive mixture
    distributions*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: norm.logpdf(x[0], 0.0, 20.0),
    ...     log_likelihood=lambda x: norm.logpdf(3.0, x[0]),
    ...     sample_prior=lambda key: 20.0 * bi.random.normal(key, (1,)),
    ... )
    >>> bridge = bi.defensive_bridge(
    ...     target,
    ...     log_reference=lambda x: norm.logpdf(x[0], 2.5, 1.5),
    ...     sample_reference=lambda key: 2.5 + 1.5 * bi.random.normal(key, (1,)),
    ... )
    >>> x = jnp.ones(1)
    >>> bool(jnp.isclose(bridge.components(x).sum(), target.components(x).sum()))
    True
    """
    if not target.has_prior or target.sample_prior is None:
        raise ImproperPriorError(
            f"the target {target.name} needs log_prior, log_likelihood and sample_prior: the "
            "bridge starts from a mixture with its prior"
        )
    if isinstance(prior_share, int | float):
        if not 0 <= prior_share <= 1:
            raise ValueError(f"prior_share must be in [0, 1], got {prior_share!r}")
        # NumPy numbers take the precision of the program that runs them.
        prior_share = np.asarray(prior_share, float)
    data = target.data if target.prior_takes_data else ()
    return geometric_bridge(
        target,
        _LogMixture(target.log_prior, log_reference, len(data)),  # type: ignore[arg-type]
        _SampleMixture(target.sample_prior, sample_reference, len(data)),
        (prior_share, *data, *parameters),
    )


def _log_student(x: jax.Array, mean: jax.Array, factor: jax.Array) -> jax.Array:
    nu, dim = DEGREES_OF_FREEDOM, x.shape[0]
    z = Tuning(1.0, mean, factor).whiten(x)
    diagonal = factor if factor.ndim == 1 else jnp.diagonal(factor)
    power = 0.5 * (nu + dim)
    constant = math.lgamma(power) - math.lgamma(0.5 * nu) - 0.5 * dim * math.log(nu * math.pi)
    return constant - jnp.sum(jnp.log(diagonal)) - power * jnp.log1p(jnp.sum(z**2) / nu)


def _sample_student(key: Any, mean: jax.Array, factor: jax.Array) -> jax.Array:
    normal_key, scale_key = random.split(key)
    noise = random.normal(normal_key, mean.shape, mean.dtype)
    # A chi-square with whole degrees of freedom is a sum of squares of normals.
    squares = random.normal(scale_key, (DEGREES_OF_FREEDOM,), mean.dtype) ** 2
    return mean + Tuning(1.0, mean, factor).scale(noise / jnp.sqrt(jnp.mean(squares)))


def student_bridge(
    target: Target, mean: Any, factor: Any, prior_share: Any = PRIOR_SHARE
) -> Target:
    r"""Return a bridge to a target from a Student-t distribution and a share of the prior.

    The reference of :func:`defensive_bridge` is the multivariate Student-t distribution with
    5 degrees of freedom,

    .. math:: r(x) \propto (1 + |z|^2 / 5)^{-(5 + d)/2}, \qquad x = m + L z .

    With the moments of a pilot run it is close to many posteriors, and the path is short. The
    pilot must use a key of its own: given its moments, the law of what runs along the bridge is
    that of any tempered path.

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior, on vectors
    mean : (dim,) array
        m.
    factor : (dim, dim) lower triangular array, or (dim,) array
        L, the scale matrix or its diagonal, as from
        :func:`~bayeskit.inference.adaptation.covariance_factor`.
    prior_share : float in [0, 1], or () array

    Returns
    -------
    Target
        With the same evidence.

    Raises
    ------
    ImproperPriorError, ValueError
        As :func:`defensive_bridge`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: norm.logpdf(x[0], 0.0, 20.0),
    ...     log_likelihood=lambda x: norm.logpdf(3.0, x[0]),
    ...     sample_prior=lambda key: 20.0 * bi.random.normal(key, (1,)),
    ... )
    >>> bridge = bi.student_bridge(target, jnp.array([3.0]), jnp.array([1.0]))
    >>> population = bi.run(bi.tempered_smc(bridge, bi.RandomWalk(), 500), 0)
    >>> bool(abs(population.log_evidence - norm.logpdf(3.0, 0.0, 401**0.5)) < 0.3)
    True
    """
    return defensive_bridge(target, _log_student, _sample_student, (mean, factor), prior_share)
