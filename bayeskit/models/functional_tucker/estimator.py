"""Functional tensor models as estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError

from bayeskit.accel.program_cache import program_cache
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.gp_kernels.hyperparametric import checked_hyperparameter
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.additive.learning import (
    free_parameters,
    learn,
    with_kernels,
)
from bayeskit.models.functional_tucker.rows import new_table, table_of
from bayeskit.models.functional_tucker.terms import MainEffect, check_terms, term_label
from bayeskit.models.functional_tucker.transforms import as_transform, standardized
from bayeskit.models.markov_gp.rows import observations

__all__ = ["FunctionalCP"]

_CONTEXTS = ("given", "training")


class FunctionalCP(RegressorMixin, BaseEstimator):
    r"""Sums of functions of real coordinates, with processes within groups (FunBaT, rank 0).

    In the transformed and standardized target :math:`t = g(y)`,

    .. math:: t_n = c + \sum_j f_j(\text{row } n) + \varepsilon_n, \qquad
        \varepsilon_n \sim N(0, \sigma^2),

    with a Gaussian process for each term. All functions are inferred jointly and exactly;
    their scales and the noise maximise the exact evidence times log-normal priors.

    Parameters
    ----------
    rank : 0
        Number of multilinear components beside the terms.
    mean : "additive", "constant", None, or sequence of terms
        :class:`~bayeskit.MainEffect`, :class:`~bayeskit.GroupMeanEffect` and
        :class:`~bayeskit.WithinGroup`. ``"additive"`` is a main effect of every mode,
        ``"constant"`` and None leave c alone.
    transform : None, "standardize", "log" or Transform
        Such as :class:`~bayeskit.BoxCox`. None keeps y.
    noise_std : float, LogNormal or None
        Standard deviation of the noise on the standardized scale. Default prior:
        LogNormal(0.3, 1.5).
    context : {"given", "training"}
        What the mean of a group is to which no training row belongs: that over all rows given
        to ``predict`` together, or, for each row by itself, its own coordinate. The fit does
        not depend on it, so ``set_params(context=...)`` needs no other fit.
    random_state : int, numpy random state, JAX key, or None
        Of draws; the fit has no randomness.

    Attributes
    ----------
    terms_ : tuple of terms, with the learned kernels
    hyperparameters_ : dict of float
        The learned numbers by name: lengths in units of the coordinate, standard deviations in
        units of the transformed target.
    noise_std_ : float
        In units of the transformed target.
    log_evidence_ : float
        Log density of y given ``hyperparameters_``, Jacobian of the transform included.
    transform_ : Transform
        With the learned centre and scale.
    n_ignored_ : int
        Rows whose y is NaN. Their coordinates count in means over groups.
    n_evaluations_ : int
        Evidences that the search took.
    timing_ : dict of float

    Notes
    -----
    Cost of one evidence: :math:`O(N (m^2 + m q + q^2) + T q s^2)` for N rows in groups of up to
    m, q weights (knots of all functions) and T distinct values of the mode that groups, whose
    process has s states. Memory O(N q).

    References
    ----------
    Fang, Yu, Wang, Li, Kirby & Zhe (2024), *Functional Bayesian Tucker decomposition for
    continuous-indexed tensor data*; Sarkka & Solin (2019), *Applied stochastic differential
    equations*; Box & Cox (1964), *An analysis of transformations*.

    Examples
    --------
    >>> import numpy as np
    >>> import bayeskit as bk
    >>> rng = np.random.default_rng(0)
    >>> X = np.round(rng.uniform(0, 10, (200, 2)))
    >>> y = np.sin(X[:, 0]) + 0.1 * X[:, 1] + 0.1 * rng.normal(size=200)
    >>> model = bk.FunctionalCP(rank=0, mean="additive").fit(X, y)
    >>> mean, std = model.predict([[3.0, 5.0], [20.0, 5.0]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(3.0) - 0.5) < 0.2), bool(std[1] > 2 * std[0])
    (True, True)
    """

    def __init__(
        self,
        rank: int = 0,
        *,
        mean: Any = "additive",
        transform: Any = None,
        noise_std: Any = None,
        context: str = "given",
        random_state: Any = None,
    ):
        self.rank = rank
        self.mean = mean
        self.transform = transform
        self.noise_std = noise_std
        self.context = context
        self.random_state = random_state

    # ------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any) -> FunctionalCP:
        """Learn the scales and condition on the data.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
            Coordinates; columns of a DataFrame may hold dates, which count in days.
        y : (rows) array
            NaN where nothing was observed.

        Returns
        -------
        self

        Raises
        ------
        InvalidDataError
            For NaN or infinities in X, lengths that do not match, values that the transform
            does not take, before anything is compiled.
        """
        if self.rank != 0:
            raise ValueError(f"rank must be 0, a sum of terms, got {self.rank!r}")
        self._context()
        checked_hyperparameter(self.noise_std, "noise_std")
        names, table = table_of(X)
        target = observations(y, len(table))
        transform = as_transform(self.transform)
        transform.check(target)
        seen = ~np.isnan(target)
        terms = with_kernels(check_terms(self._terms(names), names), names)
        self.names_, self.n_ignored_ = names, int((~seen).sum())
        self.transform_ = standardized(transform, target[seen])
        t = np.where(seen, self.transform_.forward(np.where(seen, target, 1.0)), 0.0)
        with precision_scope("float64"), program_cache(), CompileClock() as clock:
            design = additive.additive_design(terms, table, names)
            free = free_parameters(design, self.noise_std)
            u, self.n_evaluations_, reduced = learn(design, free, t, seen)
            settings = jax.tree.map(float, free.fill(u))
            self._posterior = additive.additive_posterior(
                design, t, seen / settings.noise**2, settings.kernels, reduced
            )
            values = np.asarray(free.values(u))
        self.timing_ = clock.timing()
        self.terms_ = tuple(
            type(term)(**{**vars(term), "kernel": kernel})
            for term, kernel in zip(terms, settings.kernels, strict=True)
        )
        scale = self.transform_.scale
        self._noise_std = settings.noise
        self.noise_std_ = settings.noise * scale
        self.hyperparameters_ = {
            name: float(value) * (scale if name.endswith("std") else 1.0)
            for name, value in zip(_readable(free.names, terms), values, strict=True)
        }
        jacobian = self.transform_.log_derivative(target[seen]).sum()
        self.log_evidence_ = self._posterior.log_evidence + float(jacobian)
        return self

    def _terms(self, names: Sequence[Any]) -> tuple[Any, ...]:
        if isinstance(self.mean, str):
            if self.mean == "additive":
                return tuple(MainEffect(name) for name in names)
            if self.mean != "constant":
                raise ValueError(
                    f"mean must be 'additive', 'constant', None or terms, got {self.mean!r}"
                )
        return () if self.mean is None or isinstance(self.mean, str) else tuple(self.mean)

    # ------------------------------------------------------------ predictions

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Return the posterior mean of new observations at any coordinates.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        return_std : bool

        Returns
        -------
        mean : (rows) array, or (mean, std)
        """
        moments = self._moments(X)
        mean = self.transform_.mean(*moments)
        return (mean, self.transform_.std(*moments)) if return_std else mean

    def predict_quantiles(self, X: Any, quantiles: Any = (0.05, 0.5, 0.95)) -> np.ndarray:
        """Return quantiles (quantiles, rows) of new observations at any coordinates.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        quantiles : sequence of float
            Between 0 and 1.
        """
        levels = np.atleast_1d(np.asarray(quantiles, float))
        if not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"quantiles must lie between 0 and 1, got {quantiles!r}")
        return self.transform_.quantile(levels[:, None], *self._moments(X))

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """Return the log predictive density (rows) of each observation by itself.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        y : (rows) array
        """
        target = observations(y, np.shape(X)[0])
        self.transform_.check(target)
        return self.transform_.log_density(target, *self._moments(X))

    def sample_y(self, X: Any, num_draws: int = 1, *, random_state: Any = None) -> np.ndarray:
        """Return joint posterior draws (num_draws, rows) of new observations.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        num_draws : int
        random_state : int, numpy random state, JAX key, or None
            Default: that of the estimator.
        """
        table = self._new_table(X)
        if not isinstance(num_draws, int | np.integer) or num_draws < 1:
            raise ValueError(f"num_draws must be a whole number >= 1, got {num_draws!r}")
        state = self.random_state if random_state is None else random_state
        with precision_scope("float64"), program_cache():
            latent, noise = random.split(as_random_key(state), 2)
            draws = additive.sample_rows(
                self._posterior, table, num_draws, latent, context=self._context()
            )
            errors = np.asarray(random.normal(noise, draws.shape))
        return self.transform_.inverse(draws + self._noise_std * errors)

    def functions(self, term: Any, grid: Any, *, return_std: bool = False) -> Any:
        """Return the posterior mean of the function of one term, on the transformed scale.

        Parameters
        ----------
        term : column name, term, or position in ``terms_``
            A name stands for the main effect of this mode.
        grid : (points) array
            Values of the mode, or of its mean over groups.
        return_std : bool

        Returns
        -------
        mean : (points) array, or (mean, std)
        """
        self._check_fitted()
        place = self._place_of(term)
        with precision_scope("float64"), program_cache():
            mean, variance = additive.function_moments(
                self._posterior, place, np.asarray(grid, float)
            )
        scale = self.transform_.scale
        return (scale * mean, scale * np.sqrt(variance)) if return_std else scale * mean

    def _place_of(self, term: Any) -> int:
        stated = self._posterior.design.terms
        for i, one in enumerate(stated):
            if isinstance(one, MainEffect) and not isinstance(term, type(one)):
                if one.mode == term:
                    return i
            elif type(one) is type(term) and one.mode == term.mode:
                return i
        if isinstance(term, int) and 0 <= term < len(stated) and hasattr(stated[term], "mode"):
            return term
        labels = [term_label(one) for one in stated if hasattr(one, "mode")]
        raise ValueError(f"there is no function of {term!r}; there are {labels}")

    def _moments(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (rows) of new observations of t."""
        table = self._new_table(X)
        with precision_scope("float64"), program_cache():
            mean, variance = additive.predict_rows(self._posterior, table, self._context())
        return mean, np.sqrt(variance + self._noise_std**2)

    def _context(self) -> str:
        if self.context not in _CONTEXTS:
            raise ValueError(f"context must be one of {_CONTEXTS}, got {self.context!r}")
        return self.context

    def _new_table(self, X: Any) -> np.ndarray:
        self._check_fitted()
        return new_table(X, self.names_)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError("this FunctionalCP is not fitted: call fit(X, y) first")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_posterior")


def _readable(paths: Sequence[str], terms: Sequence[Any]) -> list[str]:
    """Return names such as MainEffect(day).matern32.std for paths of learned numbers."""
    names = []
    for path in paths:
        first, *rest = path.split(".")
        if first != "kernels":
            names.append("noise_std")
            continue
        term = terms[int(rest[0])]
        # In a sum of sums the last summand is the right one of the outermost.
        kernel, rest = term.kernel, rest[1:]
        while rest and rest[0] in ("left", "right") and hasattr(kernel, rest[0]):
            kernel, rest = getattr(kernel, rest[0]), rest[1:]
        middle = [kernel.name] if hasattr(kernel, "name") else []
        names.append(".".join([term_label(term), *middle, *rest]))
    return _distinct(names)


def _distinct(names: list[str]) -> list[str]:
    """Number names that are there several times."""
    counts = {name: names.count(name) for name in names}
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(f"{name} {seen[name]}" if counts[name] > 1 else name)
    return found
