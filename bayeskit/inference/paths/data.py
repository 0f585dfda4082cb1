"""The path of partial posteriors: one datum after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference.law import Measure, Tagged
from bayeskit.inference.measure import Density, Path, Target, TemperingStage
from bayeskit.inference.population import effective_sample_size

__all__ = ["DataPath"]


class DataPath(Path):
    r"""Partial posteriors :math:`\gamma_t(x) = p(x) \prod_{s<t} p(y_s \mid x, y_{0:s-1})`.

    The place on the path is the number of data seen. A step of a ladder may take in any
    number of data: a ladder of ``0, 10, 20, ...`` goes by batches.

    Parameters
    ----------
    log_prior : callable (x) -> () array
    log_terms : callable (x) -> (num_data,) array
        :math:`\log p(y_s \mid x, y_{0:s-1})` for each datum, in order.
    sample_prior : callable (key) -> x
    has_gradient : bool
    name : str
        How the posterior is printed.

    Raises
    ------
    TypeError
        If ``log_terms`` does not return one number for each datum.

    Notes
    -----
    A move costs all terms at every stage, those of the data to come too: the shapes of a
    compiled program are fixed. It is twice the work of adding up to the datum at hand.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> y = jnp.array([0.3, 1.2, 0.8])
    >>> path = bi.DataPath(
    ...     log_prior=lambda x: -0.5 * x[0] ** 2 - 0.919,
    ...     log_terms=lambda x: -0.5 * (y - x[0]) ** 2 - 0.919,
    ...     sample_prior=lambda key: bi.random.normal(key, (1,)),
    ... )
    >>> path.num_data
    3
    """

    coordinate = "num_data"

    def __init__(
        self,
        *,
        log_prior: Callable,
        log_terms: Callable,
        sample_prior: Callable,
        has_gradient: bool = True,
        name: str = "π",
    ):
        self.log_terms = log_terms
        self.target = Target(
            log_prior=log_prior,
            log_likelihood=lambda x: jnp.sum(log_terms(x)),
            sample_prior=sample_prior,
            has_gradient=has_gradient,
            name=name,
        )
        shape = jax.eval_shape(log_terms, self.target.position_spec()).shape
        if len(shape) != 1 or shape[0] < 1:
            raise TypeError(
                f"log_terms must return one number for each datum, an array (num_data,), got "
                f"shape {shape}: do not add them up"
            )
        self.num_data = shape[0]
        self.end = float(self.num_data)
        self.measure = Measure(f"{name}_data", owner=self)
        self.increment = Tagged(
            self._increment,
            self.measure.at("t-1"),
            self.measure.at("t"),
            "likelihood of new data",
        )

    def log_likelihood(self, x: Any, first: jax.Array | float, end: jax.Array) -> jax.Array:
        """Return the log-likelihood of the data from ``first`` up to, without, ``end``."""
        datum = jnp.arange(self.num_data)
        seen = (datum >= first) & (datum < end)
        return jnp.sum(jnp.where(seen, self.log_terms(x), 0.0))

    def _increment(self, stage: TemperingStage, position: Any) -> jax.Array:
        return self.log_likelihood(position, stage.previous, stage.current)

    @property
    def initial(self) -> Tagged:
        """Sampler of one particle: a prior draw."""
        start = self.measure.at("0")
        return Tagged(self.target.draw_prior, start, start, "the prior")

    def at(self, stage: TemperingStage) -> Density:
        """Return the log density of the partial posterior at the data seen so far."""
        partial: Any = _PartialPosterior(self, stage.current)
        return Density(partial, jnp.ones(2))

    def choose(self, population: Any, fraction: float) -> jax.Array:
        """Return the number of data that brings the effective sample size to a fraction.

        It is the most data that keep it above, but at least one more than now.
        """
        current = population.stage.current
        terms = jax.vmap(self.log_terms)(population.particles)
        new = jnp.arange(self.num_data) >= current
        terms = jnp.where(new & ~jnp.isnan(terms), terms, jnp.where(new, -jnp.inf, 0.0))
        log_weights = population.log_weights[:, None] + jnp.cumsum(terms, axis=1)
        log_weights = jax.nn.log_softmax(log_weights, axis=0)
        sizes = jax.vmap(effective_sample_size, in_axes=1)(log_weights)
        enough = jnp.where(new, sizes >= fraction * population.num_particles, True)
        num_kept = jnp.sum(jnp.cumprod(enough))
        return jnp.clip(num_kept, current + 1.0, self.end)

    def every_datum(self) -> tuple[float, ...]:
        """Return the ladder that takes in one datum at a time."""
        return tuple(map(float, range(self.num_data + 1)))


class _PartialPosterior:
    """What kernels see of a path of partial posteriors at one of its places."""

    def __init__(self, path: DataPath, num_seen: jax.Array):
        self._path, self._num_seen = path, num_seen
        self.has_gradient, self.name = path.target.has_gradient, path.target.name

    def components(self, x: Any) -> jax.Array:
        log_prior = self._path.target.log_prior(x)  # type: ignore[misc]
        return jnp.stack([log_prior, self._path.log_likelihood(x, 0, self._num_seen)])
