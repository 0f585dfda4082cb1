"""The geometric path between two densities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.errors import ImproperPriorError
from bayeskit.inference.measure import Target

__all__ = ["geometric_bridge"]


@dataclass(frozen=True)
class _LogRatio:
    """log γ(x) - log q(x), -inf where γ is zero."""

    log_density: Callable
    log_reference: Callable

    def __call__(self, x: Any, *data: Any) -> jax.Array:
        log_density = self.log_density(x, *data)
        nowhere = log_density == -jnp.inf
        ratio = jnp.where(nowhere, 0.0, log_density) - self.log_reference(x)
        return jnp.where(nowhere, -jnp.inf, ratio)


@dataclass(frozen=True)
class _LogDensity:
    """log γ(x) of a target in either form."""

    target: Target

    def __call__(self, x: Any, *data: Any) -> jax.Array:
        target = self.target.with_data(*data)
        return jnp.sum(target.components(x))


def geometric_bridge(
    target: Target, log_reference: Callable, sample_reference: Callable
) -> Target:
    r"""Return a target that tempering reaches from a reference instead of the prior.

    The tempered path of the result is

    .. math:: q(x)^{1-\lambda} \gamma(x)^\lambda = q(x)\,(\gamma(x) / q(x))^\lambda ,

    so every algorithm and engine that tempers goes along it. The evidence is that of
    :math:`\gamma`, and a reference close to the posterior makes the path short.

    Parameters
    ----------
    target : Target
        In either form; a prior is not needed.
    log_reference : callable (x) -> () array
        :math:`\log q`, normalised, and finite wherever the target is positive.
    sample_reference : callable (key) -> x
        One draw from q.

    Raises
    ------
    ImproperPriorError
        Without a sampler of the reference.

    Notes
    -----
    A reference with lighter tails than the target gives weights of infinite variance.

    References
    ----------
    Gelman & Meng (1998), *Simulating normalizing constants*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * jnp.sum((x - 3) ** 2))
    >>> bridge = bi.geometric_bridge(
    ...     target,
    ...     log_reference=lambda x: norm.logpdf(x, 2.5, 1.5).sum(),
    ...     sample_reference=lambda key: 2.5 + 1.5 * bi.random.normal(key, (1,)),
    ... )
    >>> bridge.components(jnp.zeros(1)).sum()
    Array(-4.5, dtype=float32)
    """
    if not callable(sample_reference):
        raise ImproperPriorError(
            f"sample_reference must be a function (key) -> x, got {sample_reference!r}: the "
            "path starts from draws of the reference"
        )
    return Target(
        log_prior=log_reference,
        log_likelihood=_LogRatio(_LogDensity(target), log_reference),
        sample_prior=sample_reference,
        constrain=target.constrain,
        data=target.data,
        has_gradient=target.has_gradient,
        name=target.name,
    )
