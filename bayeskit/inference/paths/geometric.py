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
class _OfReference:
    """A function of the reference; its parameters follow the data of the target."""

    function: Callable
    num_data: int

    def __call__(self, value: Any, *data: Any) -> Any:
        return self.function(value, *data[self.num_data :])


@dataclass(frozen=True)
class _LogRatio:
    """log γ(x) - log q(x), -inf where γ is zero."""

    # A target but for its data: equal for targets of equal functions, so that these share
    # their compiled programs.
    structure: Any
    log_reference: _OfReference

    def __call__(self, x: Any, *data: Any) -> jax.Array:
        leaves = jax.tree.leaves(data[: self.log_reference.num_data])
        target = jax.tree.unflatten(self.structure, leaves)
        log_density = jnp.sum(target.components(x))
        nowhere = log_density == -jnp.inf
        ratio = jnp.where(nowhere, 0.0, log_density) - self.log_reference(x, *data)
        return jnp.where(nowhere, -jnp.inf, ratio)


def geometric_bridge(
    target: Target,
    log_reference: Callable,
    sample_reference: Callable,
    parameters: tuple = (),
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
    log_reference : callable (x, \*parameters) -> () array
        :math:`\log q`, normalised, and finite wherever the target is positive.
    sample_reference : callable (key, \*parameters) -> x
        One draw from q.
    parameters : tuple of arrays
        Of the reference, such as the moments of a pilot run. They are passed on as arguments,
        so that others of the same shape run through the same compiled program.

    Returns
    -------
    Target
        With the same evidence.

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
    num_data = len(target.data)
    reference = _OfReference(log_reference, num_data)
    return Target(
        log_prior=reference,
        log_likelihood=_LogRatio(jax.tree.structure(target), reference),
        sample_prior=_OfReference(sample_reference, num_data),
        constrain=target.constrain and _OfTarget(target.constrain, num_data),
        data=(*target.data, *parameters),
        has_gradient=target.has_gradient,
        prior_takes_data=True,
        name=target.name,
    )


@dataclass(frozen=True)
class _OfTarget:
    """A function of the target, without the parameters of the reference."""

    function: Callable
    num_data: int

    def __call__(self, x: Any, *data: Any) -> Any:
        return self.function(x, *data[: self.num_data])
