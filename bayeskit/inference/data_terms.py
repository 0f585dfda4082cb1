"""Likelihoods of many independent data, and what a few of the data say about all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.measure import Target

__all__ = ["DataTerms", "DifferenceEstimate", "draw_indices"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DataTerms:
    r"""A posterior of independent data, :math:`p(x) \prod_i p(y_i \mid x)`, term by term.

    Parameters
    ----------
    log_prior : callable (x) -> () array
        x is a vector (dim,).
    log_term : callable (x, datum) -> () array
        :math:`\log p(y_i \mid x)`.
    data : pytree with leading axis num_data
        One datum is the pytree without that axis.
    sample_prior : callable (key) -> x, optional
    name : str

    Raises
    ------
    ValueError
        If the data have no common leading axis.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> terms = bi.DataTerms(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_term=lambda x, datum: -0.5 * (datum - x[0]) ** 2,
    ...     data=jnp.array([1.0, 2.0, 4.0]),
    ... )
    >>> terms.log_terms(jnp.array([2.0])).tolist()
    [-0.5, -0.0, -2.0]
    """

    log_prior: Callable
    log_term: Callable
    data: Any
    sample_prior: Callable | None = None
    name: str = "π"

    def __post_init__(self):
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(self.data)}
        if len(sizes) != 1 or sizes <= {(), (0,)}:
            raise ValueError(
                "data must be arrays with one leading axis of num_data >= 1, got leading axes "
                f"{sorted(sizes)}"
            )

    @property
    def num_data(self) -> int:
        """Number of data."""
        return np.shape(jax.tree.leaves(self.data)[0])[0]

    @property
    def target(self) -> Target:
        """The posterior, each evaluation of which costs all terms."""
        return Target(
            log_prior=self.log_prior,
            log_likelihood=lambda x: jnp.sum(self.log_terms(x)),
            sample_prior=self.sample_prior,
            name=self.name,
        )

    def chosen(self, indices: jax.Array) -> Any:
        """Return the data at some places (num,)."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[indices], self.data)

    def log_terms(self, x: jax.Array, indices: jax.Array | None = None) -> jax.Array:
        """Return the terms at some places (num,), by default at all."""
        data = self.data if indices is None else self.chosen(indices)
        return jax.vmap(lambda datum: self.log_term(x, datum))(data)


def draw_indices(key: Any, num_data: int, num: int) -> jax.Array:
    """Return places (num,) of data, drawn with replacement, int32.

    Parameters
    ----------
    key : JAX key
    num_data : int
    num : int
        How many to draw.

    Returns
    -------
    (num,) int32 array

    Examples
    --------
    >>> import jax
    >>> from bayeskit import inference as bi
    >>> bi.draw_indices(jax.random.key(0), 1000, 5).shape
    (5,)
    """
    return random.integers(key, num_data, (num,))


class DifferenceEstimate:
    r"""The log-likelihood of all data from a few of them, and from an expansion of all.

    .. math:: \hat\ell(x, u) = \sum_{i=1}^n q_i(x)
        + \frac{n}{m} \sum_{j=1}^m \bigl(\ell_{u_j}(x) - q_{u_j}(x)\bigr)

    with :math:`q_i` the Taylor expansion of the term :math:`\ell_i` about a centre, whose sum
    over all data is a polynomial and costs nothing. It is unbiased, and so is its gradient;
    the closer x is to the centre, the less it varies.

    Parameters
    ----------
    terms : DataTerms
    centre : (dim,) array, optional
        Such as a mode. Without it, q = 0.
    order : {0, 1, 2}
        Of the expansion. 1 makes the control variates of gradients.

    Notes
    -----
    To build it costs the derivatives of all terms, once.

    References
    ----------
    Quiroz, Kohn, Villani & Tran (2019), *Speeding up MCMC by efficient data subsampling*.

    Examples
    --------
    Terms that are quadratic are their own expansion, so that any two tell all:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> terms = bi.DataTerms(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2,
    ...     log_term=lambda x, datum: -0.5 * (datum - x[0]) ** 2,
    ...     data=jnp.array([1.0, 2.0, 4.0]),
    ... )
    >>> estimate = bi.DifferenceEstimate(terms, centre=[0.0])
    >>> float(estimate.log_likelihood(jnp.array([2.0]), jnp.array([0, 2])))
    -2.5
    """

    def __init__(self, terms: DataTerms, centre: Any = None, order: int = 2):
        self.terms = terms
        self.order = order
        self._centre = None if centre is None else np.asarray(centre, float)
        if centre is not None:
            self._sums = self._derivatives()

    def _derivatives(self) -> tuple[np.ndarray, ...]:
        """Return value, gradient and Hessian of the sum of all terms at the centre."""
        # In double precision and as NumPy arrays, which take that of the program at hand.
        with jax.enable_x64(True):
            total = lambda x: jnp.sum(self.terms.log_terms(x))
            functions = (total, jax.grad(total), jax.hessian(total))[: self.order + 1]
            point = jnp.asarray(self._centre)
            sums = tuple(np.asarray(f(point), float) for f in functions)
        if not all(np.isfinite(part).all() for part in sums):
            raise ValueError(
                f"the terms have no finite expansion about centre={self._centre}: choose a "
                "point inside the support, such as a mode"
            )
        return sums

    def _expansion(self, x: jax.Array) -> jax.Array:
        """Return the sum of the expansions of all terms."""
        if self._centre is None:
            return jnp.zeros((), x.dtype)
        away = x - self._centre.astype(x.dtype)
        value, *rest = (jnp.asarray(part, x.dtype) for part in self._sums)
        slope = rest[0] @ away if rest else 0.0
        bend = 0.5 * away @ rest[1] @ away if len(rest) > 1 else 0.0
        return value + slope + bend

    def _expanded_term(self, x: jax.Array, datum: Any) -> jax.Array:
        """Return the expansion of one term, by derivatives along the line to x."""
        if self._centre is None:
            return jnp.zeros((), x.dtype)
        centre = jnp.asarray(self._centre.astype(x.dtype))
        along = lambda s: self.terms.log_term(centre + s * (x - centre), datum)
        zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
        slope = lambda s: jax.jvp(along, (s,), (one,))[1]
        parts = (along, slope, lambda s: 0.5 * jax.jvp(slope, (s,), (one,))[1])
        return sum((part(zero) for part in parts[: self.order + 1]), zero)

    def differences(self, x: jax.Array, indices: jax.Array) -> jax.Array:
        """Return the terms at some places (num,) less their expansions."""
        expanded = jax.vmap(lambda datum: self._expanded_term(x, datum))
        return self.terms.log_terms(x, indices) - expanded(self.terms.chosen(indices))

    def log_likelihood(self, x: jax.Array, indices: jax.Array) -> jax.Array:
        """Return the estimate from the data at some places."""
        return self._combined(x, self.differences(x, indices))

    def _combined(self, x: jax.Array, differences: jax.Array) -> jax.Array:
        return self._expansion(x) + self.terms.num_data * jnp.mean(differences)

    def corrected(self, x: jax.Array, indices: jax.Array) -> jax.Array:
        r"""Return the estimate less half its estimated variance, from 2 data or more.

        :math:`\hat\ell - \tfrac12 \hat\sigma^2`: if the estimate is normal, the mean of its
        exponential is then nearly the likelihood.
        """
        differences = self.differences(x, indices)
        num_data, num = self.terms.num_data, len(indices)
        variance = num_data**2 / num * jnp.var(differences, ddof=1)
        return self._combined(x, differences) - 0.5 * variance
