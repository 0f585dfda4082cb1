"""Where data come from: functions of the latent, with or without a log likelihood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.models.distribution_transformer.known_numbers import KnownNumbers
from bayeskit.models.distribution_transformer.signatures import checked_sizes

__all__ = ["JointSimulator", "Simulator", "Source", "as_simulator"]


class Source:
    """One kind of observation, of which there are several, independent given the latent.

    Parameters
    ----------
    simulate : callable (key, x) -> (m,) array or number
        Draws one observation, in JAX. x is the latent (d,), constrained; the key is one that
        all of ``jax.random`` takes.
    log_likelihood : callable (z, x) -> number, optional
        Log density of one observation z (m,); an array of one number will do.
    num_observations : int or (int, int)
        How many there are; a pair draws the number anew for each data set, ends included.

    Notes
    -----
    In a simulator with parameters, both functions take them as a third argument, a dict.

    Examples
    --------
    Two instruments, of which the first is read one to ten times:

    >>> import jax
    >>> from bayeskit.models.distribution_transformer import Simulator, Source
    >>> log_normal = jax.scipy.stats.norm.logpdf
    >>> coarse = Source(
    ...     lambda key, x: x + 2.0 * jax.random.normal(key, x.shape),
    ...     lambda z, x: log_normal(z, x, 2.0).sum(),
    ...     num_observations=(1, 10),
    ... )
    >>> fine = Source(lambda key, x: x + 0.1 * jax.random.normal(key, x.shape))
    >>> simulator = Simulator({"coarse": coarse, "fine": fine})
    >>> simulator.row_sizes(2), simulator.has_log_likelihood
    ({'coarse': 2, 'fine': 2}, False)
    """

    def __init__(
        self,
        simulate: Callable,
        log_likelihood: Callable | None = None,
        num_observations: int | tuple[int, int] = 1,
    ):
        self.simulate = simulate
        self.log_likelihood = log_likelihood
        self.num_observations = num_observations

    def _identity(self) -> tuple:
        return self.simulate, self.log_likelihood


class BaseSimulator:
    """What the estimator asks of a simulator; data sets are dicts of rows (n, m) by source.

    Attributes
    ----------
    num_observations : dict of str to (int, int)
        Smallest and largest number of rows of each source.
    has_log_likelihood : bool
    parameters : known numbers of the likelihood
    """

    num_observations: dict[str, tuple[int, int]]
    has_log_likelihood: bool
    parameters: KnownNumbers
    # Whether no data set can have more rows than those of training.
    has_fixed_rows = False
    # Where the latent lives, if the simulator knows.
    support: Any = None

    def _identity(self) -> tuple | None:
        """Return functions and numbers that make a simulator what it is, if they are known."""
        return None

    # Programs are compiled for a simulator: a copy of it, as ``clone`` makes them, is to find
    # those of the first.
    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or self._identity() is None:
            return False
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        # By what surely can be hashed, which functions that are objects may not.
        return hash(_numbers(self))

    def simulate_rows(self, key: jax.Array, x: jax.Array, vector: jax.Array) -> dict:
        """Return the largest data set of one problem."""
        raise NotImplementedError

    def log_likelihood_rows(
        self, rows: dict, masks: dict, x: jax.Array, vector: jax.Array
    ) -> jax.Array:
        """Return the log density of the rows that are there."""
        raise NotImplementedError

    def linear_part(self, vector: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Return matrix and factor of the noise of a linear Gaussian likelihood, else None."""
        return None

    def row_sizes(self, dim: int) -> dict[str, int]:
        """Return the numbers m of one row of each source, from abstract calls.

        Raises
        ------
        TypeError, IndexError
            If the simulator or its log likelihood cannot be called, returns other than rows or
            a number, or reads what is not there.
        """
        return checked_sizes(self, dim)

    def drawers(self) -> dict[str, Callable]:
        """Return the functions (key, x) that the user wrote to draw data, by source."""
        return {}

    def check_rows(
        self, rows: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]
    ) -> None:
        """Refuse observations (batch, n, m) that no latent gives; by default none are."""

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{low} to {high} of {name!r}"
            for name, (low, high) in self.num_observations.items()
        )
        likelihood = "with" if self.has_log_likelihood else "without"
        return f"<{type(self).__name__}: {counts}, {likelihood} log likelihood>"

    def probe(self, key: jax.Array, x: Any, rows: Mapping[str, Any]) -> None:
        """Call what the user wrote, with a latent and rows that are NumPy arrays."""
        vector = jnp.zeros(len(self.parameters.ranges))
        self.simulate_rows(key, x, vector)
        if self.has_log_likelihood:
            masks = {name: np.ones(len(values), bool) for name, values in rows.items()}
            self.log_likelihood_rows(dict(rows), masks, x, vector)


def _numbers(simulator: BaseSimulator) -> tuple:
    counts = tuple(simulator.num_observations.items())
    return counts, tuple(simulator.parameters.ranges.items())


def _row_range(number: Any, name: str) -> tuple[int, int]:
    is_pair = isinstance(number, tuple | list) and len(number) == 2
    given = number if is_pair else (number, number)
    if not all(isinstance(one, int | np.integer) for one in given):
        raise ValueError(
            f"num_observations of {name!r} must be a whole number or a pair of them, got "
            f"{number!r}"
        )
    low, high = given
    if not (0 <= low <= high and high >= 1):
        raise ValueError(
            f"num_observations of {name!r} must be a count or a range of counts with at least "
            f"1 at the upper end, got {number!r}"
        )
    return int(low), int(high)


class Simulator(BaseSimulator):
    """Data sets of independent observations from one or several named sources.

    Parameters
    ----------
    simulate : callable (key, x) -> (m,) array, or dict of str to Source
        One function: a single source called ``"z"``.
    log_likelihood, num_observations
        Of a single source, as for :class:`Source`.
    parameters : dict of str to (float, float), optional
        Known numbers of the likelihood and their ranges in training, drawn uniformly, and on a
        log scale where the lower end is positive. Functions then take a third argument, a dict,
        and so does ``posterior``.

    Raises
    ------
    ValueError
        Without a source.

    Examples
    --------
    >>> import jax
    >>> simulator = Simulator(
    ...     lambda key, x: jax.random.bernoulli(key, jax.nn.sigmoid(x[0])),
    ...     lambda z, x: -jax.numpy.logaddexp(0.0, (1.0 - 2.0 * z[0]) * x[0]),
    ...     num_observations=(1, 10),
    ... )
    >>> simulator.row_sizes(1)
    {'z': 1}
    """

    def __init__(
        self,
        simulate: Callable | Mapping[str, Source],
        log_likelihood: Callable | None = None,
        *,
        num_observations: int | tuple[int, int] = 1,
        parameters: Mapping[str, tuple[float, float]] | None = None,
    ):
        if isinstance(simulate, Mapping):
            self.sources = dict(simulate)
            if not self.sources:
                raise ValueError("a simulator needs at least one source")
        else:
            self.sources = {"z": Source(simulate, log_likelihood, num_observations)}
        self.parameters = KnownNumbers(parameters)
        self.num_observations = {
            name: _row_range(source.num_observations, name)
            for name, source in self.sources.items()
        }
        self.has_log_likelihood = all(
            source.log_likelihood is not None for source in self.sources.values()
        )

    def _identity(self) -> tuple:
        of_sources = tuple((n, s._identity()) for n, s in self.sources.items())
        return of_sources, *_numbers(self)

    def _more(self, vector: jax.Array) -> tuple:
        return (self.parameters.of_scaled(vector),) if self.parameters.ranges else ()

    def simulate_rows(self, key: jax.Array, x: jax.Array, vector: jax.Array) -> dict:
        """Return the largest data set of one problem."""
        more, rows = self._more(vector), {}
        keys = jax.random.split(key, len(self.sources))
        for part, (name, source) in zip(keys, self.sources.items(), strict=True):
            each = jax.random.split(part, self.num_observations[name][1])
            drawn = jax.vmap(lambda k, s=source: s.simulate(random.threefry(k), x, *more))(each)
            if drawn.ndim > 2:
                raise ValueError(
                    f"simulate must return one observation (m,) of {name!r}, got shape "
                    f"{drawn.shape[1:]}; whole data sets are drawn by a JointSimulator"
                )
            drawn = drawn.reshape(len(drawn), -1)
            rows[name] = drawn.astype(jnp.zeros(()).dtype)
        return rows

    def log_likelihood_rows(
        self, rows: dict, masks: dict, x: jax.Array, vector: jax.Array
    ) -> jax.Array:
        """Return the log density of the rows that are there."""
        more, total = self._more(vector), jnp.zeros((), x.dtype)
        for name, source in self.sources.items():
            if source.log_likelihood is None:
                raise ValueError(f"the source {name!r} has no log_likelihood")
            values = jax.vmap(
                lambda z, s=source: jnp.reshape(s.log_likelihood(z, x, *more), ())
            )(rows[name])
            total = total + jnp.where(masks[name], values, 0.0).sum()
        return total

    def drawers(self) -> dict[str, Callable]:
        """Return the functions of all sources."""
        more = self._more(jnp.zeros(len(self.parameters.ranges)))
        return {
            name: lambda key, x, s=source: s.simulate(key, x, *more)
            for name, source in self.sources.items()
        }

    def probe(self, key: jax.Array, x: Any, rows: Mapping[str, Any]) -> None:
        """Call the functions of each source, with a latent and a row that are NumPy arrays."""
        more = self._more(jnp.zeros(len(self.parameters.ranges)))
        for name, source in self.sources.items():
            source.simulate(random.threefry(key), x, *more)
            if source.log_likelihood is not None:
                source.log_likelihood(rows[name][0], x, *more)


class JointSimulator(BaseSimulator):
    """Data sets whose rows are not independent, or have a design of their own.

    Parameters
    ----------
    simulate : callable (key, x) -> dict of (n, m) arrays, or one (n, m) array
        Draws a whole data set.
    num_observations : dict of str to int or (int, int), or one of them
        Numbers of rows; with a pair, the first rows of what was drawn are kept.
    log_likelihood : callable (rows, masks, x) -> number, optional
        Log density of the rows where the masks, dicts of (n,) arrays of bool, are True.
    parameters : dict of str to (float, float), optional
        As for :class:`Simulator`.

    Examples
    --------
    The first three to five steps of a random walk that begins at the latent:

    >>> import jax
    >>> from bayeskit.models.distribution_transformer import JointSimulator
    >>> def walk(key, x):
    ...     return x + jax.random.normal(key, (5, 1)).cumsum(axis=0)
    >>> simulator = JointSimulator(walk, num_observations=(3, 5))
    >>> simulator.num_observations, simulator.row_sizes(1), simulator.has_log_likelihood
    ({'z': (3, 5)}, {'z': 1}, False)
    """

    has_fixed_rows = True

    def __init__(
        self,
        simulate: Callable,
        num_observations: Any,
        log_likelihood: Callable | None = None,
        *,
        parameters: Mapping[str, tuple[float, float]] | None = None,
    ):
        self.simulate, self.log_likelihood = simulate, log_likelihood
        numbers = num_observations
        if not isinstance(numbers, Mapping):
            numbers = {"z": numbers}
        self.num_observations = {name: _row_range(n, name) for name, n in numbers.items()}
        self.parameters = KnownNumbers(parameters)
        self.has_log_likelihood = log_likelihood is not None

    def _identity(self) -> tuple:
        return self.simulate, self.log_likelihood, *_numbers(self)

    def _more(self, vector: jax.Array) -> tuple:
        return (self.parameters.of_scaled(vector),) if self.parameters.ranges else ()

    def drawers(self) -> dict[str, Callable]:
        """Return the one function."""
        more = self._more(jnp.zeros(len(self.parameters.ranges)))
        return {"z": lambda key, x: self.simulate(key, x, *more)}

    def simulate_rows(self, key: jax.Array, x: jax.Array, vector: jax.Array) -> dict:
        """Return the largest data set of one problem."""
        drawn = self.simulate(random.threefry(key), x, *self._more(vector))
        rows = dict(drawn) if isinstance(drawn, Mapping) else {"z": drawn}
        dtype = jnp.zeros(()).dtype
        for name, (_, high) in self.num_observations.items():
            if name not in rows or rows[name].ndim != 2 or rows[name].shape[0] != high:
                raise ValueError(
                    f"simulate must return {high} rows for {name!r}, got "
                    f"{ {n: jnp.shape(r) for n, r in rows.items()} }"
                )
        return {name: rows[name].astype(dtype) for name in self.num_observations}

    def log_likelihood_rows(
        self, rows: dict, masks: dict, x: jax.Array, vector: jax.Array
    ) -> jax.Array:
        """Return the log density of the rows that are there."""
        if self.log_likelihood is None:
            raise ValueError("the simulator has no log_likelihood")
        return jnp.reshape(self.log_likelihood(rows, masks, x, *self._more(vector)), ())


def as_simulator(simulator: Any) -> BaseSimulator:
    """Return a simulator for what a user gives.

    Raises
    ------
    TypeError
        For anything but a simulator or a function (key, x).
    """
    if isinstance(simulator, BaseSimulator):
        return simulator
    if callable(simulator):
        return Simulator(simulator)
    raise TypeError(
        "simulator must be a Simulator, JointSimulator, LinearGaussian, NumPyroSimulator or a "
        f"function (key, x), got {type(simulator).__name__}"
    )
