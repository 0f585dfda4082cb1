r"""Additive terms and a multilinear part together, by coordinate ascent.

The terms of the mean are one Gaussian block, inferred exactly given the multilinear part, which
is fitted to what the terms leave. Both are steps of one ascent: the bound counts the squared
errors of the whole, and the divergence of every part from its prior.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from bayeskit.errors import ConvergenceWarning, InitializationError
from bayeskit.inference import random
from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.additive.learning import (
    free_parameters,
    learn,
    with_unit_noise,
)
from bayeskit.models.functional_tucker.low_rank.data import TensorData, tensor_data
from bayeskit.models.functional_tucker.low_rank.mean_field import product_draws, product_moments
from bayeskit.models.functional_tucker.low_rank.search import (
    CHUNK,
    Found,
    Problem,
    beliefs_without_modes,
    carried_over,
    climb,
    first_guess,
    rows_and_bound,
)

__all__ = ["MeanField", "fit_mean_field"]

# Rounds after which the scales of the terms stay as they are: they hardly move then, and each
# evidence of all terms costs as much as many epochs.
_LEARNING_ROUNDS = 3
# Steps of hyper-parameters grow by this while the bound rises, up to so many times their length
# (adaptive over-relaxation: Salakhutdinov & Roweis 2003).
_STRETCH = 1.5
_MOST_STRETCH = 8.0


@dataclass(frozen=True, eq=False)
class MeanField:
    """Independent laws of the terms, the functions of each mode, the core and the noise.

    Parameters
    ----------
    problem : Problem
    data : TensorData
        With the target less the mean of the terms.
    found : Found
        The bounds are those of the whole, one for each round.
    terms : AdditivePosterior
    term_values : (num_free,) array
        Hyper-parameters of the terms that were learned, in the order of their names.
    term_names : tuple of str
    is_converged : bool
    num_epochs : int
        Of the multilinear part.
    num_evaluations : int
        Evidences of the terms that were computed.
    num_searched : int
        Rows that there were at the last search from new starts.
    """

    problem: Problem
    data: TensorData
    found: Found
    terms: additive.AdditivePosterior
    term_values: np.ndarray
    term_names: tuple[str, ...]
    is_converged: bool
    num_epochs: int
    num_evaluations: int
    num_searched: int = 0

    @property
    def log_weights(self) -> np.ndarray:
        """Of the one draw that independent laws count as."""
        return np.zeros(1)

    @property
    def noise_std(self) -> np.ndarray:
        """Of the noise, on the scale of t, (1,)."""
        return np.atleast_1d(float(self.found.beliefs.noise_precision) ** -0.5)

    @property
    def table(self) -> np.ndarray:
        """The coordinates of all rows that the laws are given."""
        return self.terms.design.table

    @property
    def design(self) -> additive.AdditiveDesign:
        """Of the terms."""
        return self.terms.design

    @property
    def is_exact(self) -> bool:
        """Whether there is nothing but terms and normal noise."""
        return not len(self.bounds)

    @property
    def bounds(self) -> np.ndarray:
        """The evidence lower bound after each round, log prior of hyper-parameters included."""
        return self.found.bounds

    def moments(self, table: np.ndarray, context: str) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances (1, new rows) of t without noise, each row by itself."""
        mean, variance = additive.predict_rows(self.terms, table, context)
        found = self.found
        product = product_moments(self.problem, self.data, found.beliefs, found.u, table)
        return (mean + product[0])[None], (variance + product[1])[None]

    def function_moments(
        self, term: int, x: np.ndarray, is_centred: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances (points,) of the function of a term.

        Of a centred one, less its mean over the observed rows.
        """
        if is_centred:
            return additive.centred_function_moments(self.terms, term, x)
        return additive.function_moments(self.terms, term, x)

    def draws(self, table: np.ndarray, context: str, num_draws: int, key: Any) -> tuple:
        """Return joint draws (num_draws, new rows) of t without noise, and std of the noise."""
        terms_key, product_key = random.split(key, 2)
        drawn = additive.sample_rows(self.terms, table, num_draws, terms_key, context=context)
        found = self.found
        drawn = drawn + product_draws(
            self.problem, self.data, found.beliefs, found.u, table, num_draws, product_key
        )
        return drawn, self.noise_std


def fit_mean_field(
    problem: Problem,
    design: additive.AdditiveDesign,
    noise_std: Any,
    t: np.ndarray,
    seen: np.ndarray,
    key: Any,
    *,
    start: MeanField | None = None,
    **options: Any,
) -> MeanField:
    """Return the laws that maximise the bound of the evidence of all.

    Few rows may have led to an optimum that is a bad one of many. So each time that the rows
    have doubled since the last search, there is another one, and the better of both is kept.

    Parameters
    ----------
    start : MeanField, optional
        Laws given some of the rows, to go on from. Those of another model are not looked at.
    problem, design, noise_std, t, seen, key, **options
        As for :func:`_ascend`.
    """
    free = free_parameters(design, noise_std)
    given = problem, design, free, t, seen, key
    if start is None or not _goes_on(start, problem, free):
        return _ascend(*given, **options)
    going_on = _ascend(*given, start=start, **options)
    if going_on.is_exact or len(t) < 2 * start.num_searched:
        return replace(going_on, num_searched=start.num_searched)
    anew = _ascend(*given, **options)
    is_better = anew.bounds[-1] > going_on.bounds[-1]
    return anew if is_better else replace(going_on, num_searched=len(t))


def _ascend(
    problem: Problem,
    design: additive.AdditiveDesign,
    free: Any,
    t: np.ndarray,
    seen: np.ndarray,
    key: Any,
    *,
    max_iter: int,
    tol: float,
    num_starts: int,
    start: MeanField | None = None,
) -> MeanField:
    """Return where coordinate ascent ends.

    Parameters
    ----------
    problem : Problem
        The multilinear part; a layout without modes is none.
    design : AdditiveDesign
    free : FreeParameters of Settings
        Of the terms.
    t, seen : (rows,) arrays
    key : key
        Of the starts.
    max_iter : int
        Most epochs of the multilinear part.
    tol : float
        The end: a round raises the bound by less than this, for each observation.
    num_starts : int
    start : MeanField, optional
        Laws given some of the rows, to go on from.

    Raises
    ------
    InitializationError
        If the bound is no number.

    Warns
    -----
    ConvergenceWarning
        If the last round still raised the bound.
    """
    u = None if start is None else _term_coordinates(free, start)
    u, num_evaluations, reduced = learn(design, free, t, seen, u)
    settings = jax.tree.map(float, free.fill(u))
    is_term = [name != "noise" for name in free.names]
    names = tuple(name for name in free.names if name != "noise")
    precision = seen / settings.noise**2
    terms = additive.additive_posterior(design, t, precision, settings.kernels, reduced)
    data = tensor_data(design.table, np.where(seen, t, np.nan))
    if not problem.layout.ranks:
        data = data._replace(places=(), grids=())
    if not problem.layout.ranks and problem.noise.degrees is None:
        # Nothing but the terms: exact, in one step.
        alone = Found(beliefs_without_modes(problem, data, settings.noise), (), np.zeros(0))
        values = np.asarray(free.values(u))
        return MeanField(
            problem,
            data,
            alone,
            terms,
            values[is_term],
            names,
            True,
            0,
            num_evaluations,
            len(t),
        )

    held, kernels = with_unit_noise(free), settings.kernels
    bounds: list[float] = []
    found: Any = None
    stretch = 1.0
    while True:
        mean, variance = additive.row_moments(terms)
        data = data._replace(
            y=_padded(np.where(seen, t - mean, 0.0), data),
            spread=_padded(np.where(seen, variance, 0.0), data),
        )
        if found is None and start is not None:
            found = carried_over(problem, data, start.problem, start.data, start.found)
        elif found is None:
            found = first_guess(problem, data, settings.noise, key, num_starts)
        constant = -_divergence(terms, mean, variance) - 0.5 * float(u @ u)
        before, found = found, climb(problem, data, found, stretch)
        product, _, bound = rows_and_bound(problem, data, found)
        if stretch > 1.0 and not bound + constant >= bounds[-1]:
            # Too far: again, with steps of the usual length.
            stretch, found = 1.0, climb(problem, data, before)
            product, _, bound = rows_and_bound(problem, data, found)
        elif bounds:
            stretch = min(_STRETCH * stretch, _MOST_STRETCH)
        bounds.append(bound + constant)
        if not np.isfinite(bounds[-1]):
            raise InitializationError(
                f"the evidence lower bound is {bounds[-1]} after {len(found.bounds)} epochs, "
                f"with noise of {settings.noise:.3g} standard deviations of y: filters do not "
                "resolve so little; give a larger noise_std, or None to learn it"
            )
        gain = bounds[-1] - bounds[-2] if len(bounds) > 1 else np.inf
        is_converged = bool(abs(gain) < tol * seen.sum())
        if is_converged or len(found.bounds) >= max_iter:
            break
        target = t - product[: len(t)]
        precision = np.asarray(found.beliefs.row_precision(data.weight))[: len(t)]
        reduced = None
        if design.terms and len(bounds) <= _LEARNING_ROUNDS:
            u, more, reduced = learn(design, held, target, precision, u)
            kernels = jax.tree.map(float, held.fill(u)).kernels
            num_evaluations += more
        terms = additive.additive_posterior(design, target, precision, kernels, reduced)
    if not is_converged:
        if len(bounds) == 1:
            gain = found.bounds[-1] - found.bounds[-CHUNK]
        warnings.warn(
            f"the evidence lower bound still rose by {gain:.3g} over the last {CHUNK} of "
            f"{len(found.bounds)} epochs: raise max_iter, or tol if that is enough",
            ConvergenceWarning,
            # The call of fit.
            stacklevel=6,
        )
    num_epochs, found = len(found.bounds), found._replace(bounds=np.asarray(bounds))
    # Arrays of JAX would be read back from a pickle in single precision.
    found = jax.tree.map(np.asarray, found)
    return MeanField(
        problem,
        data,
        found,
        terms,
        np.asarray(held.values(u))[is_term],
        names,
        is_converged,
        num_epochs,
        num_evaluations,
        len(t),
    )


def _goes_on(start: MeanField, problem: Problem, free: Any) -> bool:
    """Return whether an earlier fit was of the same model."""
    before = start.problem
    terms = tuple(name for name in free.names if name != "noise")
    if before.layout != problem.layout or start.term_names != terms:
        return False
    forms: list[Any] = [jax.tree.structure(one.parameters) for one in (before, problem)]
    return bool(forms[0] == forms[1])


def _term_coordinates(free: Any, start: MeanField) -> np.ndarray:
    """Return where an earlier fit ended, under the priors of this one."""
    values = iter(start.term_values)
    learned = [start.noise_std[0] if name == "noise" else next(values) for name in free.names]
    return free.coordinates(learned)


def _padded(values: np.ndarray, data: TensorData) -> np.ndarray:
    return np.pad(values, (0, len(data.y) - len(values)))


def _divergence(terms: Any, mean: np.ndarray, variance: np.ndarray) -> float:
    """Return the divergence of the law of the terms from their prior."""
    y, precision = terms.y[: len(mean)], terms.precision[: len(mean)]
    observed = precision > 0
    logs = np.log(np.where(observed, precision, 1.0) / (2.0 * np.pi))
    expected = np.where(observed, logs, 0.0) - precision * ((y - mean) ** 2 + variance)
    return 0.5 * float(expected.sum()) - terms.log_evidence
