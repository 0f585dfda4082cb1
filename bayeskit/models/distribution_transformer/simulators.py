"""Where data come from: functions of the latent, with or without a log likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random

__all__ = ["JointSimulator", "Simulator", "Source", "as_simulator"]


class Source:
    """One kind of observation, of which there are several, independent given the latent.

    Parameters
    ----------
    simulate : callable (key, x) -> (m,) array or number
        Draws one observation, in JAX. x is the latent (d,), constrained; the key is one that
        all of ``jax.random`` takes.
    log_likelihood : callable (z, x) -> number, optional
        Log density of one observation z (m,).
    num_observations : int or (int, int)
        How many there are; a pair draws the number anew for each data set, ends included.

    Notes
    -----
    In a simulator with parameters, both functions take them as a third argument, a dict.
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


class _Parameters:
    """Known numbers of the likelihood, such as a noise, that differ between calls."""

    def __init__(self, ranges: Mapping[str, tuple[float, float]] | None):
        self.ranges = {name: (float(a), float(b)) for name, (a, b) in (ranges or {}).items()}
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"parameters[{name!r}] must be a finite range, got {low, high}"
                )

    def _is_log(self, name: str) -> bool:
        return self.ranges[name][0] > 0

    def scaled(self, values: Mapping[str, Any]) -> list[Any]:
        """Return each value on a scale on which its range is [-1, 1]."""
        columns = []
        for name, (low, high) in self.ranges.items():
            value = values[name]
            if self._is_log(name):
                value, low, high = jnp.log(value), math.log(low), math.log(high)
            columns.append((2 * value - low - high) / (high - low))
        return columns

    def of_scaled(self, vector: jax.Array) -> dict[str, jax.Array]:
        """Return the values of a vector (p,) of scaled ones."""
        result = {}
        for i, (name, (low, high)) in enumerate(self.ranges.items()):
            is_log = self._is_log(name)
            a, b = (math.log(low), math.log(high)) if is_log else (low, high)
            value = 0.5 * (a + b) + 0.5 * (b - a) * vector[i]
            result[name] = jnp.exp(value) if is_log else value
        return result


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
    parameters: _Parameters
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
        """Return the numbers m of one row of each source, from an abstract call.

        Raises
        ------
        TypeError
            If the simulator cannot be called, or returns no rows of numbers.
        """
        vector = jax.ShapeDtypeStruct((len(self.parameters.ranges),), jnp.float32)
        try:
            found = jax.eval_shape(
                self.simulate_rows,
                jax.random.key(0),
                jax.ShapeDtypeStruct((dim,), jnp.float32),
                vector,
            )
        except Exception as error:
            given = self.parameters.ranges
            called = "(key, x, parameters)" if given else "(key, x)"
            hint = "" if given else "; a third argument takes parameters= of the Simulator"
            raise TypeError(
                f"the simulator cannot be called with a key and a latent of shape ({dim},). It "
                f"must be a JAX function {called} -> (m,) array{hint}. It raised "
                f"{first_line(error)}"
            ) from error
        sizes = {}
        for name, leaf in found.items():
            if leaf.ndim != 2 or not leaf.shape[1]:
                raise TypeError(
                    f"the simulator must return rows (n, m) of numbers for {name!r}, "
                    f"got shape {leaf.shape}"
                )
            sizes[name] = leaf.shape[1]
        if self.has_log_likelihood:
            self._check_log_likelihood(found, dim, vector)
        return sizes

    def _check_log_likelihood(self, rows: dict, dim: int, vector: Any) -> None:
        """Refuse a log likelihood that cannot be called, or returns no single number."""
        masks = {n: jax.ShapeDtypeStruct((a.shape[0],), jnp.bool_) for n, a in rows.items()}
        latent = jax.ShapeDtypeStruct((dim,), jnp.float32)
        shapes = {name: leaf.shape for name, leaf in rows.items()}
        try:
            jax.eval_shape(self.log_likelihood_rows, rows, masks, latent, vector)
        except Exception as error:
            raise TypeError(
                f"the log likelihood cannot be called with observations of shapes (n, m) "
                f"{shapes} and a latent of shape ({dim},), or returns more than one number. It "
                "must be a JAX function (z, x) -> number of one observation z (m,), or (rows, "
                f"masks, x) -> number of a JointSimulator. It raised {first_line(error)}"
            ) from error


def _numbers(simulator: BaseSimulator) -> tuple:
    counts = tuple(simulator.num_observations.items())
    return counts, tuple(simulator.parameters.ranges.items())


def first_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


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
        self.parameters = _Parameters(parameters)
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
        self.parameters = _Parameters(parameters)
        self.has_log_likelihood = log_likelihood is not None

    def _identity(self) -> tuple:
        return self.simulate, self.log_likelihood, *_numbers(self)

    def _more(self, vector: jax.Array) -> tuple:
        return (self.parameters.of_scaled(vector),) if self.parameters.ranges else ()

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
