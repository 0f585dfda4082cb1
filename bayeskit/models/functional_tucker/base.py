"""What functional tensor models share: fitting, predictions, functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from bayeskit.accel.program_cache import program_cache
from bayeskit.accel.time.associative import check_method, method_here
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.gp_kernels import LogNormal
from bayeskit.inference.gp_kernels.hyperparametric import checked_hyperparameter
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.additive.learning import with_kernels
from bayeskit.models.functional_tucker.attributes import (
    ATTRIBUTES,
    learned_attributes,
    why_absent,
)
from bayeskit.models.functional_tucker.joint import MeanField, fit_mean_field
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior
from bayeskit.models.functional_tucker.low_rank.priors import kernels_of_modes, mode_parameters
from bayeskit.models.functional_tucker.low_rank.search import Problem
from bayeskit.models.functional_tucker.memory import check_memory
from bayeskit.models.functional_tucker.pictures import Pictures
from bayeskit.models.functional_tucker.predictions import Predictions
from bayeskit.models.functional_tucker.rows import (
    Categories,
    date_columns,
    table_of,
)
from bayeskit.models.functional_tucker.sampled import Sampled, fit_by_gibbs, fit_by_smc
from bayeskit.models.functional_tucker.saving import Saving
from bayeskit.models.functional_tucker.terms import MainEffect, check_terms
from bayeskit.models.functional_tucker.transforms import as_transform, standardized
from bayeskit.models.markov_gp.rows import observations
from bayeskit.models.tables import as_frame

__all__ = ["FunctionalTensor"]


class _Given(NamedTuple):
    """A model of rows that is set up and not fitted."""

    problem: Problem
    design: additive.AdditiveDesign
    t: np.ndarray
    seen: np.ndarray
    names: tuple[Any, ...]
    categories: Categories
    target: np.ndarray
    kernels: tuple[Any, ...]
    transform: Any


_LIKELIHOODS = ("normal", "student_t")
_ENGINES = ("cavi", "gibbs", "smc")
# Settings that are whole numbers, and the least of each.
_COUNTS = {
    "max_iter": 1,
    "num_starts": 1,
    "num_draws": 1,
    "num_warmup": 0,
    "num_chains": 1,
    "num_particles": 2,
}
# Weak: a hundredth of the target's variance, worth two observations.
_NOISE_PRECISION = Gamma(1.0, 0.01)


class FunctionalTensor(Predictions, Pictures, Saving, RegressorMixin, BaseEstimator):
    """The base of :class:`FunctionalCP` and :class:`FunctionalTucker`."""

    mean: Any
    kernel: Any
    transform: Any
    noise_std: Any
    likelihood: str
    degrees: float
    engine: str
    max_iter: int
    tol: float
    num_starts: int
    num_draws: int
    num_warmup: int
    num_chains: int
    num_particles: int
    method: str
    context: str
    random_state: Any

    def __getattr__(self, name: str) -> Any:
        """Say when a learned attribute that is absent would be there."""
        kind = type(self).__name__
        if name in ATTRIBUTES:
            raise AttributeError(f"{kind} has no {name}: {why_absent(name, self.__dict__)}")
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")

    def _layout(self, num_modes: int) -> Layout:
        """Return the layout that the parameters ask for; an empty one has no modes."""
        raise NotImplementedError

    # ------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any) -> Any:
        """Learn the scales and condition on the data.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
            Coordinates; columns of a DataFrame may hold dates, which count in days, and text
            or categories, whose values are exchangeable.
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

        Warns
        -----
        ConvergenceWarning
            If the search ends while the bound still rises.
        """
        X = as_frame(X)
        names, table, categories = table_of(X)
        self._dates = date_columns(X)
        self._fit(names, table, categories, observations(y, len(table)))
        return self

    def partial_fit(self, X: Any, y: Any) -> Any:
        """Add rows to those of earlier calls, and go on from where these have led.

        The model that results is that of all rows. Coordinate ascent starts from the laws and
        the scales of the last call, and may stay near an optimum that few rows have led to. So
        each time that the rows have doubled there is a search from new starts beside it, and
        the better bound wins. Draws are made anew.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        y : (rows) array

        Returns
        -------
        self
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y)
        X = as_frame(X)
        table, categories = self._new_table(X, may_be_unseen=True), self.categories_
        if hasattr(X, "columns"):
            categories = table_of(X[list(self.names_)], categories)[2]
        more = observations(y, len(table), allow_none=True)
        target = np.concatenate([self._target, more])
        before = self._posterior
        tables = np.concatenate([before.table, table])
        start = before if isinstance(before, MeanField) else None
        self._fit(self.names_, tables, categories, target, start)
        return self

    def _fit(
        self,
        names: tuple,
        table: np.ndarray,
        categories: Categories,
        target: np.ndarray,
        start: MeanField | None = None,
    ) -> None:
        with precision_scope("float64"), program_cache(), CompileClock() as clock:
            given = self._set_up(names, table, categories, target)
            self._posterior = self._fitted(given, as_random_key(self.random_state), start)
        self._keep(given)
        self.timing_ = clock.timing()

    def _set_up(
        self, names: tuple, table: np.ndarray, categories: Categories, target: np.ndarray
    ) -> _Given:
        """Check the parameters, and return the model of rows."""
        transform = as_transform(self.transform)
        transform.check(target)
        seen = ~np.isnan(target)
        transform = standardized(transform, target[seen])
        layout = self._layout(len(names))
        self._check_settings(layout)
        terms = check_terms(self._terms(names), names)
        terms = with_kernels(terms, names, tuple(categories))
        kernels: tuple[Any, ...] = ()
        if layout.ranks:
            kernels = kernels_of_modes(self.kernel, names, tuple(categories))
            check_memory(layout, kernels, table)
        t = np.where(seen, transform.forward(np.where(seen, target, 1.0)), 0.0)
        problem = Problem(
            layout,
            mode_parameters(layout, kernels, table) if layout.ranks else (),
            1.0,
            self._noise_prior(),
            method_here(self.method),
        )
        design = additive.additive_design(terms, table, names)
        return _Given(problem, design, t, seen, names, categories, target, kernels, transform)

    def _keep(self, given: _Given) -> None:
        """Store what the posterior is of, and what it says of hyper-parameters."""
        target, seen, transform = given.target, given.seen, given.transform
        self._target, self.categories_ = target, given.categories
        self.names_, self.n_ignored_ = given.names, int((~seen).sum())
        self.transform_ = transform
        with precision_scope("float64"):
            learned = learned_attributes(
                self._posterior,
                given.names,
                given.kernels,
                transform.scale,
                float(transform.log_derivative(target[seen]).sum()),
                learns_noise=not self._noise_is_number,
            )
        for name in ATTRIBUTES:
            self.__dict__.pop(name, None)
        self.__dict__.update(learned)

    def _fitted(self, given: _Given, key: Any, start: Any) -> MeanField | Sampled:
        problem, design, t, seen = given[:4]
        if self.engine == "gibbs":
            return fit_by_gibbs(
                problem,
                design,
                t,
                seen,
                key,
                num_draws=self.num_draws,
                num_warmup=self.num_warmup,
                num_chains=self.num_chains,
            )
        if self.engine == "smc":
            num = self.num_particles
            return fit_by_smc(problem, design, t, seen, key, num_particles=num)
        return fit_mean_field(
            problem,
            design,
            self.noise_std,
            t,
            seen,
            key,
            max_iter=self.max_iter,
            tol=self.tol,
            num_starts=self.num_starts,
            start=start,
        )

    def _noise_prior(self) -> NoisePrior:
        is_number = self._noise_is_number
        precision = float(self.noise_std) ** -2.0 if is_number else _NOISE_PRECISION
        return NoisePrior(precision, float(self.degrees) if self._is_student else None)

    @property
    def _noise_is_number(self) -> bool:
        return self.noise_std is not None and not isinstance(self.noise_std, LogNormal)

    @property
    def _is_student(self) -> bool:
        return self.likelihood == "student_t"

    def _check_settings(self, layout: Layout) -> None:
        if self.likelihood not in _LIKELIHOODS:
            raise ValueError(
                f"likelihood must be one of {_LIKELIHOODS}, got {self.likelihood!r}"
            )
        if self._is_student and not _is_above(self.degrees, 2):
            raise ValueError(
                f"degrees must be a number above 2, so that the noise has a variance, got "
                f"{self.degrees!r}"
            )
        self._check_context()
        check_method(self.method)
        checked_hyperparameter(self.noise_std, "noise_std")
        is_exact = self.engine == "cavi" and not layout.ranks and not self._is_student
        if isinstance(self.noise_std, LogNormal) and not is_exact:
            raise ValueError(
                "noise_std must be None, which learns it, or a number where there are "
                "multilinear components, Student-t noise or draws, got "
                f"{self.noise_std!r}"
            )
        if self.engine not in _ENGINES:
            raise ValueError(f"engine must be one of the names {_ENGINES}, got {self.engine!r}")
        if self.engine == "smc" and not layout.ranks:
            raise ValueError(
                "engine='smc' needs multilinear components, but the rank is 0: terms alone "
                "have an exact evidence, with engine='cavi'"
            )
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not is_whole or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not (_is_above(self.tol, 0) or self.tol == 0):
            raise ValueError(f"tol must be a number >= 0, got {self.tol!r}")

    def _terms(self, names: Sequence[Any]) -> tuple[Any, ...]:
        if isinstance(self.mean, str):
            if self.mean == "additive":
                return tuple(MainEffect(name) for name in names)
            if self.mean != "constant":
                raise ValueError(
                    f"mean must be 'additive', 'constant', None or terms, got {self.mean!r}"
                )
            return ()
        if self.mean is None:
            return ()
        if not isinstance(self.mean, Sequence):
            raise TypeError(
                "mean must be 'additive', 'constant', None or a sequence of terms, got "
                f"{self.mean!r}"
            )
        return tuple(self.mean)


def _is_above(value: Any, least: float) -> bool:
    return isinstance(value, int | float | np.number) and bool(value > least)
