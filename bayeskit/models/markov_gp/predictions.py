"""What a conditioned process says of functions and observations at any coordinates."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import NotFittedError

from bayeskit.accel.program_cache import program_cache
from bayeskit.accel.time.associative import method_here
from bayeskit.inference import random
from bayeskit.inference.gp_kernels import FreeParameters
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.markov_gp import program
from bayeskit.models.markov_gp.likelihoods import Likelihood, nodes
from bayeskit.models.markov_gp.mixtures import (
    function_quantiles,
    mixture_moments,
    observation_quantiles,
)
from bayeskit.models.markov_gp.naming import distinct_names
from bayeskit.models.markov_gp.program import Data, Sites
from bayeskit.models.markov_gp.rows import (
    as_dates,
    checked_levels,
    coordinates,
    grid_of,
    refuse_other_kind,
    refuse_other_zone,
    rows_of,
    with_zone,
)

__all__ = ["Predictions"]

_LEVELS = (0.05, 0.5, 0.95)


class Predictions:
    """The part of the estimator that predicts; it holds what was learned.

    Attributes
    ----------
    mean_ : float
    kernel_, likelihood_ : with numbers
    """

    method: str
    precision: str
    random_state: Any
    mean_: float
    kernel_: Any
    likelihood_: Likelihood
    # Coordinates, observations, and variances of noise that was given, (rows,) each.
    _rows: tuple[np.ndarray, np.ndarray, np.ndarray]
    # Kernel and likelihood with priors.
    _priors: dict[str, Any]
    # Draws of hyper-parameters (draws, num_free), and the sites of each (draws, rows).
    _u: np.ndarray
    _sites: Sites
    # Whether the coordinates of the fit were dates.
    _are_dates: bool
    # Whether these had a time zone.
    _have_zone: bool

    def predict(self, X: Any, *, return_std: bool = False, of: str = "observation") -> Any:
        """Return the posterior mean at any coordinates.

        Parameters
        ----------
        X : array (rows,) or (rows, 1), Series or dates
        return_std : bool
        of : {"observation", "function", "rate"}
            New observations, with the learned noise; the function itself, which is the
            logarithm of the rate of counts and the log odds of 0 and 1; or the mean of an
            observation given the function, such as the rate of counts or the probability of 1.

        Returns
        -------
        mean : (rows,) array, or (mean, std)
        """
        mean, variance = mixture_moments(*self._moments_of(X, of))
        return (mean, np.sqrt(variance)) if return_std else mean

    def predict_quantiles(
        self, X: Any, quantiles: Any = _LEVELS, *, of: str = "observation"
    ) -> np.ndarray:
        """Return quantiles (quantiles, rows) at any coordinates.

        Parameters
        ----------
        X, of
            As for :meth:`predict`.
        quantiles : sequence of float
            Between 0 and 1.
        """
        levels = checked_levels(quantiles)
        if of == "observation" and not self._fitted_likelihood().is_exact:
            means, variances = self._moments_of(X, "function")
            return observation_quantiles(self._likelihoods(), means, variances, levels)
        if of == "rate":
            found = function_quantiles(*self._moments_of(X, "function"), levels)
            # It rises with the function, and hyper-parameters of it have none.
            return self.likelihood_.rate(found)
        return function_quantiles(*self._moments_of(X, of), levels)

    def sample_y(
        self,
        X: Any,
        num_draws: int = 1,
        *,
        of: str = "observation",
        random_state: Any = None,
    ) -> np.ndarray:
        """Return joint posterior draws (num_draws, rows).

        Parameters
        ----------
        X, of
            As for :meth:`predict`.
        num_draws : int
        random_state : int, numpy random state, JAX key, or None
            Default: that of the estimator.
        """
        self._check_of(of)
        x = self._new_coordinates(X)
        if not isinstance(num_draws, int | np.integer) or num_draws < 1:
            raise ValueError(f"num_draws must be a whole number >= 1, got {num_draws!r}")
        # Draws of hyper-parameters take turns, each with as many paths as it needs.
        num_hyper = min(num_draws, len(self._u))
        chosen = np.linspace(0, len(self._u) - 1, num_hyper).round().astype(int)
        num_paths = -(-num_draws // num_hyper)
        with precision_scope(self.precision), program_cache():
            state = self.random_state if random_state is None else random_state
            state_key, noise_key = random.split(as_random_key(state))
            data, place = self._data_and_places(x)
            shape = num_hyper, num_paths, len(data.grid.x), self.kernel_.dim
            dtype = np.dtype(self.precision)
            drawn = program.function_draws(
                self._u[chosen].astype(dtype),
                self._free(),
                data,
                Sites(*(s[chosen] for s in self._sites)),
                random.normal(state_key, shape, dtype),
                self._method,
            )
            generator = random.host_generator(noise_key)
        f = np.asarray(drawn, np.float64)[..., place] + self.mean_
        if of == "observation":
            likelihoods = [self._likelihoods()[i] for i in chosen]
            f = np.stack(
                [one.draw(generator, paths) for one, paths in zip(likelihoods, f, strict=True)]
            )
        elif of == "rate":
            f = self.likelihood_.rate(f)
        return np.swapaxes(f, 0, 1).reshape(-1, len(x))[:num_draws]

    def bands(self, X: Any, *, of: str = "function", level: float = 0.9) -> Any:
        """Return mean, sd and quantiles at any coordinates, as a table.

        Parameters
        ----------
        X : array
        of : {"observation", "function", "rate"}
            As for :meth:`predict`.
        level : float
            Probability between the outer quantiles, whose tails are equal.

        Returns
        -------
        pandas.DataFrame
            By coordinate, with columns mean, sd, 5%, median and 95%, or those of the level.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
        means, variances = self._moments_of(X, of)
        levels = (0.5 - 0.5 * level, 0.5, 0.5 + 0.5 * level)
        quantiles = self.predict_quantiles(X, levels, of=of)
        return _table(X, *mixture_moments(means, variances), quantiles, levels)

    def components(self, X: Any) -> Any:
        """Return the posterior of each summand of the kernel at any coordinates.

        Returns
        -------
        pandas.DataFrame
            By component and coordinate, with columns mean, sd, 5%, median and 95%. The means
            add up to the mean of the function less the constant ``mean_``.
        """
        import pandas as pd

        means, variances = self._moments(self._new_coordinates(X), by_term=True)
        tables = {}
        for i, name in enumerate(distinct_names([t.name for t in self.kernel_.terms])):
            m, v = means[:, i], variances[:, i]
            tables[name] = _table(X, *mixture_moments(m, v), function_quantiles(m, v, _LEVELS))
        return pd.concat(tables, names=["component", "x"])

    def plot(
        self, X: Any = None, *, of: str = "rate", level: float = 0.9, ax: Any = None
    ) -> Any:
        """Draw data, median and a band, and return the Axes.

        Parameters
        ----------
        X : array, optional
            Coordinates; default: 400 across the data.
        of : {"observation", "function", "rate"}
            As for :meth:`predict`. The rate, which is the function where noise is added to it,
            is on the scale of the data.
        level : float
            Probability of the band, whose tails are equal; the default goes from 5 % to 95 %.
        """
        from bayeskit.plots import function_bands

        self._check_fitted()
        x, y, _ = self._rows
        if X is None:
            X = self._as_given(np.linspace(x.min(), x.max(), 400))
        bands = self.bands(X, of=of, level=level)
        ax = function_bands(bands, observations=(self._as_given(x), y), ax=ax)
        ax.set_ylabel(self.likelihood_.rate_name if of == "rate" else of)
        if self._have_zone:
            ax.set_xlabel("x, UTC")
        return ax

    def _moments_of(self, X: Any, of: str) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances (draws, rows) of function or observations."""
        self._check_of(of)
        means, variances = self._moments(self._new_coordinates(X))
        means = means + self.mean_
        if of == "function":
            return means, variances
        each = [
            one.moments(m, v) if of == "observation" else one.rate_moments(m, v)
            for one, m, v in zip(self._likelihoods(), means, variances, strict=True)
        ]
        return np.stack([m for m, _ in each]), np.stack([v for _, v in each])

    def _moments(self, more: np.ndarray, by_term: bool = False) -> tuple:
        """Return moments of g at new coordinates; without any, on the grid of the data."""
        with precision_scope(self.precision), program_cache():
            data, place = self._data_and_places(more)
            u = self._u.astype(self.precision)
            moments = program.function_moments(
                u, self._free(), data, Sites(*self._sites), self._method, by_term
            )
            mean, variance = (np.asarray(m, np.float64) for m in moments)
        return (mean[..., place], variance[..., place]) if len(more) else (mean, variance)

    def _likelihoods(self) -> list[Likelihood]:
        """Return the likelihood for each draw of hyper-parameters."""
        with precision_scope(self.precision):
            free = self._free()
            return [
                jax.tree.map(float, free.fill(u.astype(self.precision))["likelihood"])
                for u in self._u
            ]

    def _fitted_likelihood(self) -> Likelihood:
        self._check_fitted()
        return self.likelihood_

    def _new_coordinates(self, X: Any) -> np.ndarray:
        self._check_fitted()
        if np.ndim(X) == 2 and np.shape(X)[1] != 1:
            raise ValueError(
                f"X has {np.shape(X)[1]} features, but MarkovGPRegressor is expecting 1 "
                "features as input"
            )
        self._refuse_other_kind(X)
        return coordinates(X)

    def _refuse_other_kind(self, X: Any) -> None:
        refuse_other_kind(self._are_dates, X, "X")
        refuse_other_zone(self._have_zone, X, "X")

    def _as_given(self, x: np.ndarray) -> Any:
        """Return coordinates as what the fit was given: numbers, dates, or dates in UTC."""
        if not self._are_dates:
            return x
        return with_zone(as_dates(x)) if self._have_zone else as_dates(x)

    def _check_of(self, of: str) -> None:
        self._check_fitted()
        if of not in ("observation", "function", "rate"):
            raise ValueError(f"of must be 'observation', 'function' or 'rate', got {of!r}")

    def loo(self) -> Any:
        """Return what each row would be predicted as from all others, in linear time.

        Exact for normal observations at given hyper-parameters, which are not learned again.
        For others the site of the row is taken away from the approximation.

        Returns
        -------
        pandas.DataFrame
            By coordinate, in the order of the rows of the fit: mean and standard deviation of
            the observation, and its log density, NaN for rows without observation.
        """
        import pandas as pd

        self._check_fitted()
        x, y, variance = self._rows
        place = self._data_and_places(np.zeros(0))[0].rows.place[: len(y)]
        means, variances = self._moments(np.zeros(0))
        m, v = (a[:, place] for a in (means, variances))
        precision, information = (np.asarray(s)[:, : len(y)] for s in self._sites)
        left = 1.0 - precision * v
        cavity_mean = (m - v * information) / left + self.mean_
        cavity_variance = v / left
        parts = [
            one.moments(cm, cv, variance)
            for one, cm, cv in zip(
                self._likelihoods(), cavity_mean, cavity_variance, strict=True
            )
        ]
        mean, spread = mixture_moments(*(np.stack(p) for p in zip(*parts, strict=True)))
        if self.likelihood_.is_exact:
            each = [-0.5 * (np.log(2.0 * np.pi * s) + (y - c) ** 2 / s) for c, s in parts]
        else:
            each = [
                _expected_density(one, y, c, s, variance)
                for one, c, s in zip(
                    self._likelihoods(), cavity_mean, cavity_variance, strict=True
                )
            ]
        density = logsumexp(each, axis=0) - np.log(len(each))
        index = pd.Index(np.asarray(self._as_given(x)), name="x")
        columns = {"mean": mean, "std": np.sqrt(spread), "log_density": density}
        return pd.DataFrame(columns, index=index)

    # ------------------------------------------------------------ what predictions need

    @property
    def _method(self) -> str:
        return method_here(self.method)

    def _free(self) -> FreeParameters:
        return FreeParameters.of(self._priors, self.precision)

    def _data(self, more: Any = None) -> Data:
        return self._data_and_places(np.zeros(0) if more is None else more)[0]

    def _data_and_places(self, more: np.ndarray) -> tuple[Data, np.ndarray]:
        """Return rows on a grid that holds other coordinates as well, and where those stand."""
        x, y, variance = self._rows
        grid, place = grid_of(np.concatenate([x, more]), self.precision)
        rows = rows_of(y, variance, place[: len(x)], self.precision)
        offset = np.asarray(self.mean_, self.precision)
        return Data(rows, grid, offset), place[len(x) :]

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                "this MarkovGPRegressor is not fitted yet: call fit with data first"
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_sites")


def _expected_density(
    likelihood: Likelihood, y: Any, m: Any, v: Any, variance: np.ndarray
) -> np.ndarray:
    """Return the log density of observations whose function values are normal."""
    x, w = nodes()
    f = m[:, None] + np.sqrt(v)[:, None] * x
    return logsumexp(likelihood.log_density(y[:, None], f, variance[:, None]), axis=1, b=w)


def _table(
    X: Any, mean: np.ndarray, variance: np.ndarray, quantiles: np.ndarray, levels: Any = _LEVELS
) -> Any:
    import pandas as pd

    index = pd.Index(np.ravel(np.asarray(X)), name="x")
    names = f"{100 * levels[0]:.6g}%", "median", f"{100 * levels[-1]:.6g}%"
    columns = {"mean": mean, "sd": np.sqrt(variance)}
    columns |= dict(zip(names, quantiles, strict=True))
    return pd.DataFrame(columns, index=index)
