"""Langevin steps along gradients from a few of the data: an approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.data_terms import DataTerms, DifferenceEstimate, draw_indices
from bayeskit.inference.kernels.base import StepInfo, Tuning
from bayeskit.inference.kernels.unadjusted_langevin import UnadjustedLangevin
from bayeskit.inference.law import CONSISTENT, Measure
from bayeskit.inference.transitions.base import Transition

__all__ = ["StochasticLangevin", "check_batch", "sgld"]


@dataclass(frozen=True, eq=False, repr=False)
class StochasticLangevin(Transition):
    """Langevin steps with estimated gradients. See :func:`sgld`."""

    estimate: DifferenceEstimate
    num_terms: int
    on: Measure
    tuning: Tuning | None = None

    @property
    def name(self):
        return f"stochastic-gradient Langevin({self.num_terms} terms)"

    @property
    def measure(self):
        return self.on

    @property
    def law_kind(self):
        return CONSISTENT

    @property
    def derivation(self):
        return (f"{self.name}: an approximation, never rejected, of {self.measure}",)

    def gradient(self, key: Any, x: jax.Array) -> jax.Array:
        """Return an unbiased estimate of the gradient of the log density."""
        terms = self.estimate.terms
        indices = draw_indices(key, terms.num_data, self.num_terms)
        whole = lambda at: terms.log_prior(at) + self.estimate.log_likelihood(at, indices)
        return jax.grad(whole)(x)

    def step(self, key, state, stage=None):
        index_key, noise_key = random.split(key)
        tuning = self.tuning or UnadjustedLangevin().default_tuning(state.size, state.dtype)
        noise = random.normal(noise_key, state.shape, state.dtype)
        drift = (
            0.5 * tuning.step_size * tuning.scale_transposed(self.gradient(index_key, state))
        )
        there = state + tuning.step_size * tuning.scale(drift + noise)
        possible = jnp.all(jnp.isfinite(there))
        info = StepInfo(possible.astype(state.dtype), possible, ~possible, jnp.asarray(False))
        return jnp.where(possible, there, state), info


def sgld(
    terms: DataTerms, num_terms: int, *, centre: Any = None, tuning: Tuning | None = None
) -> Transition:
    r"""Return stochastic-gradient Langevin dynamics (law L10: an approximation).

    .. math:: x' = x + \tfrac{h^2}{2} L L' \hat\nabla \log\gamma(x) + h L \varepsilon

    with the gradient estimated from ``num_terms`` data, drawn anew for each step. As
    :class:`UnadjustedLangevin` it is never rejected, and the noise of the gradient adds to the
    bias: the variance of the steps grows by :math:`\tfrac{h^4}{4} L L' V L L'`, V that of the
    gradient. Control variates, gradients at a centre that are known for all data, lower V.

    Parameters
    ----------
    terms : DataTerms
    num_terms : int
        Data for each step.
    centre : (dim,) array, optional
        Where the control variates are taken, such as a mode: use it wherever one can be found.
    tuning : Tuning, optional
        Step size h and metric. Default: those for a standardised target, h = 0.2.

    Returns
    -------
    Transition
        On positions (dim,).

    Raises
    ------
    ValueError
        If ``num_terms`` is not at least 1, or the terms cannot be expanded at the centre.

    Notes
    -----
    A step costs ``num_terms`` gradients, twice that with control variates.
    :func:`bayeskit.validate` measures the bias. For the exact posterior of as many data as this
    is made for, prefer :func:`subsampling_hmc`, whose bias is far smaller.

    References
    ----------
    Welling & Teh (2011), *Bayesian learning via stochastic gradient Langevin dynamics*; Baker,
    Fearnhead, Fox & Nemeth (2019), *Control variates for stochastic gradient MCMC*.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> y = 2.0 + jax.random.normal(jax.random.key(0), (1000,))
    >>> terms = bi.DataTerms(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_term=lambda x, datum: -0.5 * (datum - x[0]) ** 2,
    ...     data=y,
    ... )
    >>> spread = bi.Tuning(jnp.array(0.3), jnp.zeros(1), jnp.array([1000**-0.5]))
    >>> steps = bi.sgld(terms, 10, centre=y.mean()[None], tuning=spread)
    >>> draws, _ = bi.chain(steps, jnp.zeros(1), 2000, key=1)
    >>> bool(abs(draws[500:].mean() - y.mean()) < 0.02)
    True
    >>> str(steps.law_kind)
    'L10 consistent'
    """
    check_batch(num_terms, 1)
    estimate = DifferenceEstimate(terms, centre, order=1)
    return StochasticLangevin(estimate, num_terms, Measure(terms.name, owner=terms), tuning)


def check_batch(num_terms: Any, least: int) -> None:
    """Refuse a number of terms from which nothing can be estimated."""
    if not isinstance(num_terms, int) or num_terms < least:
        raise ValueError(f"num_terms must be a whole number >= {least}, got {num_terms!r}")
