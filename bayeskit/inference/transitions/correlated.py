"""Pseudo-marginal steps whose estimates are made of correlated random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.law import Measure
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions.base import Transition
from bayeskit.inference.transitions.proposals import Proposal
from bayeskit.inference.transitions.pseudo_marginal import (
    MarginalState,
    PseudoMarginal,
    check_pseudo_marginal,
)

__all__ = ["Auxiliary", "correlated_pseudo_marginal", "crank_nicolson"]


class Auxiliary(NamedTuple):
    r"""The random numbers u that an estimate is made of, and how they move.

    Parameters
    ----------
    draw : callable (key) -> u
    move : callable (key, u) -> u
        Reversible for the law of ``draw``.

    Examples
    --------
    Random numbers of one's own: uniforms on a circle, each of which turns a little:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> circle = bi.Auxiliary(
    ...     draw=lambda key: bi.random.uniform(key, (10_000,)),
    ...     move=lambda key, u: (u + 0.1 * bi.random.normal(key, u.shape)) % 1.0,
    ... )
    >>> u = circle.move(jax.random.key(1), circle.draw(jax.random.key(0)))
    >>> [round(float(jnp.mean(u < limit)), 1) for limit in (0.3, 0.6, 1.0)]
    [0.3, 0.6, 1.0]
    """

    draw: Callable
    move: Callable


def crank_nicolson(shape: tuple[int, ...], correlation: float) -> Auxiliary:
    r"""Return standard normals that move by :math:`u' = \rho u + \sqrt{1 - \rho^2}\,\xi`.

    Parameters
    ----------
    shape : tuple of int
    correlation : float in [0, 1)
        :math:`\rho`; 0 draws all numbers anew.

    Returns
    -------
    Auxiliary

    Raises
    ------
    ValueError
        For another correlation.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> auxiliary = bi.crank_nicolson((100_000,), correlation=0.8)
    >>> u = auxiliary.draw(jax.random.key(0))
    >>> moved = auxiliary.move(jax.random.key(1), u)
    >>> round(float(jnp.mean(u * moved)), 1), round(float(jnp.mean(moved**2)), 1)
    (0.8, 1.0)
    """
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation must be in [0, 1), got {correlation!r}")

    def move(key, u):
        noise = random.normal(key, shape, u.dtype)
        return correlation * u + jnp.sqrt(1.0 - correlation**2).astype(u.dtype) * noise

    return Auxiliary(lambda key: random.normal(key, shape), move)


@dataclass(frozen=True, eq=False, repr=False)
class CorrelatedPseudoMarginal(PseudoMarginal):
    """See :func:`correlated_pseudo_marginal`. The sample of a state is (u, sample)."""

    auxiliary: Any = None

    @property
    def name(self):
        return f"correlated {super().name}"

    @property
    def derivation(self):
        return (*super().derivation, "the random numbers of the estimate move reversibly")

    def state_with(self, parameters: Any, u: Any) -> MarginalState:
        """Return parameters with the estimate that random numbers make."""
        log_estimate, sample = self.estimator(parameters, None)(u)
        return MarginalState(parameters, log_estimate, (u, sample))

    def state_at(self, key, parameters, stage):
        return self.state_with(parameters, self.auxiliary.draw(key))

    def proposed(self, key, parameters, state, stage):
        return self.state_with(parameters, self.auxiliary.move(key, state.sample[0]))


def correlated_pseudo_marginal(
    proposal: Proposal, prior: Target, estimator: Callable, auxiliary: Auxiliary
) -> Transition:
    r"""Return a pseudo-marginal step whose new estimate is correlated with the current one.

    The random numbers u of the estimate are part of the state and are moved, not drawn anew.
    The errors of the two estimates in the acceptance ratio then cancel for the most part, so
    that far fewer particles do.

    Parameters
    ----------
    proposal : Proposal
    prior : Target
    estimator : callable (parameters) -> callable (u) -> (log estimate, sample)
        Deterministic, and smooth in u as far as it can be. Its mean over u is the likelihood.
    auxiliary : Auxiliary
        Such as :func:`crank_nicolson`.

    Returns
    -------
    Transition
        Its states are :class:`MarginalState`, with ``sample`` the pair of u and the sample.

    Raises
    ------
    TypeError
        If ``proposal`` or ``prior`` are of another type, or the estimator is no function.

    References
    ----------
    Deligiannidis, Doucet & Pitt (2018), *The correlated pseudomarginal method*; Dahlin,
    Lindsten, Kronander & Schön (2015).

    Examples
    --------
    A likelihood that is a mean over a hidden variable, estimated by 20 draws that move a little
    at each step:

    >>> import jax.numpy as jnp
    >>> from jax.scipy.special import logsumexp
    >>> from bayeskit import inference as bi
    >>> prior = bi.Target(log_density=lambda m: -0.5 * m**2)
    >>> def estimator(mean):
    ...     return lambda u: (logsumexp(-0.5 * (1.0 - mean - u) ** 2) - jnp.log(20.0), mean)
    >>> walk = bi.correlated_pseudo_marginal(
    ...     bi.random_walk(1.0), prior, estimator, bi.crank_nicolson((20,), 0.99)
    ... )
    >>> print(walk.explain())
    estimate of the likelihood, at given parameters:
        taken to be unbiased, as declared
    Metropolis-Hastings on (parameters, estimate, sample); what is current is kept
    the random numbers of the estimate move reversibly
    => L3r reversible for π·Ẑ: ...
    """
    check_pseudo_marginal(proposal, prior, estimator)
    measure = Measure(f"{prior.name}·Ẑ", owner=estimator)
    whole = lambda parameters, _: estimator(parameters)
    return CorrelatedPseudoMarginal(proposal, prior, whole, measure, auxiliary)
