"""What functional tensor models share: fitting, predictions, functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError

from bayeskit.accel.program_cache import program_cache
from bayeskit.accel.time.associative import check_method
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.gp_kernels import LogNormal
from bayeskit.inference.gp_kernels.hyperparametric import checked_hyperparameter
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.additive.learning import with_kernels
from bayeskit.models.functional_tucker.attributes import ATTRIBUTES, learned_attributes
from bayeskit.models.functional_tucker.joint import MeanField, fit_mean_field
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.mean_field import factor_moments
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior
from bayeskit.models.functional_tucker.low_rank.priors import kernels_of_modes, mode_parameters
from bayeskit.models.functional_tucker.low_rank.search import Problem
from bayeskit.models.functional_tucker.naming import place_of_mode
from bayeskit.models.functional_tucker.pictures import Pictures
from bayeskit.models.functional_tucker.predictive import Predictive, predictive
from bayeskit.models.functional_tucker.rows import (
    Categories,
    coordinates_of,
    new_table,
    table_of,
)
from bayeskit.models.functional_tucker.sampled import Sampled, fit_by_gibbs, fit_by_smc
from bayeskit.models.functional_tucker.terms import MainEffect, check_terms, term_label
from bayeskit.models.functional_tucker.transforms import as_transform, standardized
from bayeskit.models.markov_gp.rows import observations

__all__ = ["FunctionalTensor"]

_CONTEXTS = ("given", "training")
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


class FunctionalTensor(Pictures, RegressorMixin, BaseEstimator):
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
        names, table, categories = table_of(X)
        self._fit(names, table, categories, observations(y, len(table)))
        return self

    def partial_fit(self, X: Any, y: Any) -> Any:
        """Add rows to those of earlier calls, and go on from where these have led.

        The model that results is that of all rows. Coordinate ascent starts from the laws and
        the scales of the last call, which is faster than a new search; draws are made anew.

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
        table, categories = self._new_table(X), self.categories_
        if hasattr(X, "columns"):
            categories = table_of(X[list(self.names_)], categories)[2]
        target = np.concatenate([self._target, observations(y, len(table))])
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
        t = np.where(seen, transform.forward(np.where(seen, target, 1.0)), 0.0)
        with precision_scope("float64"), program_cache(), CompileClock() as clock:
            problem = Problem(
                layout,
                mode_parameters(layout, kernels, table) if layout.ranks else (),
                1.0,
                self._noise_prior(),
                _method_here(self.method),
            )
            design = additive.additive_design(terms, table, names)
            given = design, t, seen, as_random_key(self.random_state)
            self._posterior = self._fitted(problem, *given, start)
            self._target, self.categories_ = target, categories
            self.names_, self.n_ignored_ = names, int((~seen).sum())
            self.transform_ = transform
            learned = learned_attributes(
                self._posterior,
                names,
                kernels,
                transform.scale,
                float(transform.log_derivative(target[seen]).sum()),
                learns_noise=not self._noise_is_number,
            )
        for name in ATTRIBUTES:
            self.__dict__.pop(name, None)
        self.__dict__.update(learned)
        self.timing_ = clock.timing()

    def _fitted(
        self, problem: Problem, design: Any, t: Any, seen: Any, key: Any, start: Any
    ) -> MeanField | Sampled:
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
        if self._is_student and not self.degrees > 2:
            raise ValueError(
                f"degrees must be above 2, so that the noise has a variance, got "
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
            raise ValueError(f"engine must be one of {_ENGINES}, got {self.engine!r}")
        if self.engine == "smc" and not layout.ranks:
            raise ValueError(
                "engine='smc' needs multilinear components, but the rank is 0: terms alone "
                "have an exact evidence, with engine='cavi'"
            )
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not self.tol >= 0:
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
        mean, std = self._predictive(X).moments()
        return (mean, std) if return_std else mean

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
        return self._predictive(X).quantiles(levels)

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """Return the log predictive density (rows) of each observation by itself.

        Parameters
        ----------
        X : DataFrame or (rows, modes) array
        y : (rows) array
        """
        law = self._predictive(X)
        target = observations(y, law.mean.shape[1])
        self.transform_.check(target)
        return law.log_density(target)

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
            latent_key, noise_key = random.split(as_random_key(state), 2)
            draws, std = self._posterior.draws(
                table, self._check_context(), num_draws, latent_key
            )
            generator = random.host_generator(noise_key)
        if self._is_student:
            errors = generator.standard_t(self.degrees, draws.shape)
        else:
            errors = generator.standard_normal(draws.shape)
        return self.transform_.inverse(draws + std[:, None] * errors)

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
        terms = self._mean_field("functions of terms").terms
        place = self._place_of(term)
        points = coordinates_of(grid, self.terms_[place].mode, self.categories_)
        with precision_scope("float64"), program_cache():
            mean, variance = additive.function_moments(terms, place, points)
        scale = self.transform_.scale
        return (scale * mean, scale * np.sqrt(variance)) if return_std else scale * mean

    def factors(self, mode: Any, grid: Any, *, return_std: bool = False) -> Any:
        """Return the posterior mean of the functions of a mode that are multiplied.

        Signs, order and scale of functions are no result: only the product is known. In a
        Tucker model neither is their rotation.

        Parameters
        ----------
        mode : column name or position
        grid : (points) array
            Values of the mode.
        return_std : bool

        Returns
        -------
        mean : (points, rank) array, or (mean, std)
        """
        posterior = self._mean_field("factors")
        if not posterior.problem.layout.ranks:
            raise ValueError("this model has no factors: its rank is 0")
        place = place_of_mode(self.names_, mode)
        with precision_scope("float64"), program_cache():
            mean, covariance = factor_moments(
                posterior.problem,
                posterior.data,
                posterior.found.beliefs,
                posterior.found.u,
                place,
                coordinates_of(grid, self.names_[place], self.categories_),
            )
        std = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        return (mean, std) if return_std else mean

    def _mean_field(self, what: str) -> MeanField:
        """Return independent laws; refuse what draws do not tell one by one."""
        self._check_fitted()
        if not isinstance(self._posterior, MeanField):
            raise ValueError(
                f"{what} come from engine='cavi': in draws of engine={self.engine!r} signs and "
                "order of factors change, and terms are integrated out; predict gives what is "
                "known of their sum"
            )
        return self._posterior

    def _place_of(self, term: Any) -> int:
        stated = self.terms_
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

    def _predictive(self, X: Any) -> Predictive:
        """Return the law of new observations."""
        table = self._new_table(X)
        posterior = self._posterior
        with precision_scope("float64"), program_cache():
            mean, variance = posterior.moments(table, self._check_context())
        degrees = self.degrees if self._is_student else None
        return predictive(
            self.transform_,
            mean,
            variance,
            posterior.noise_std,
            degrees,
            posterior.log_weights,
        )

    def _check_context(self) -> str:
        if self.context not in _CONTEXTS:
            raise ValueError(f"context must be one of {_CONTEXTS}, got {self.context!r}")
        return self.context

    def _new_table(self, X: Any) -> np.ndarray:
        self._check_fitted()
        return new_table(X, self.names_, self.categories_)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted: call fit(X, y) first")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_posterior")


def _method_here(method: str) -> str:
    """Return the method for the platform at hand, so that only one form is traced."""
    if method != "auto":
        return method
    return "sequential" if jax.default_backend() == "cpu" else "parallel"
