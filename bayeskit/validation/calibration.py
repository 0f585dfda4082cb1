r"""Simulation-based calibration of a whole estimator, through its fit.

Draw parameters from the prior and data from the likelihood, fit the data, and rank the true
parameters among the posterior draws. If the draws come from the posterior, truth and draws
can be exchanged, so that each rank is uniform, whatever the model:

.. math:: \theta_0 \sim p(\theta), \quad y \sim p(y \mid \theta_0), \quad
    \theta_1, \dots, \theta_L \sim p(\theta \mid y) \;\Rightarrow\;
    \#\{l : f(\theta_l, y) < f(\theta_0, y)\} \text{ is uniform on } 0, \dots, L .

Ranks of parameters alone cannot see everything: a "posterior" that is the prior and never
looks at the data ranks them perfectly. The log joint density as f sees that.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeskit import accel
from bayeskit.errors import BayeskitWarning, LawMismatch
from bayeskit.inference import random
from bayeskit.inference.law import DRAWS
from bayeskit.inference.measure import Target
from bayeskit.validation.findings import Findings, Request, name_of
from bayeskit.validation.paired import Level
from bayeskit.validation.ranks import binomial_p_values
from bayeskit.validation.report import Check, Power
from bayeskit.validation.sequential import sequential_test

__all__ = ["validate_estimator"]

# Each replicate is a fit. With 100 of them, a likelihood used twice is missed too often.
_LEVELS = {
    "quick": Level(num_stages=3, growth=4, first=200, num_frequencies=0),
    "full": Level(num_stages=3, growth=4, first=1000, num_frequencies=0),
}
# One less than a round number, so that ranks have 100 values and cuts are percentages.
_NUM_DRAWS = 99
_CUTS = np.array([5, 10, 25, 50, 75, 90, 95])
# Ranks in the middle so many of 100: how often a central interval covers the truth.
_INTERVALS = np.array([50, 80, 90, 98])


def validate_estimator(estimator: Any, request: Request) -> Findings:
    """Check that the draws of an estimator come from the posterior of the data it is given.

    ``request.start`` is ``simulate(key) -> (parameters, arguments)``: true parameters by name
    from the prior, and data given them as the tuple of arguments of ``fit``, arrays of the
    same shapes each time, so that nothing is compiled twice. The estimator is cloned, gets a
    fresh ``random_state`` and is fitted. Its draws are those of ``sample(num_draws,
    random_state)``, or of the group ``posterior`` of ``posterior_``; they must be equally
    weighted, so weighted ones have to be resampled first.

    ``request.observed`` is ``observed(parameters, arguments) -> scalar, array or dict``:
    further quantities to rank, written with JAX for one set of parameters. For an estimator
    with a NumPyro model the log joint density is ranked without being asked for; for any other
    ``observed`` has to return the log likelihood.
    """
    if request.law not in (None, DRAWS):
        raise LawMismatch(
            f"the law of an estimator is that of its draws, {DRAWS}, not {request.law}: leave "
            "law= out"
        )
    level = _level(request.level)
    calibration = _Calibration(estimator, request.start, request.observed)
    stages: list[np.ndarray] = []

    def run_stage(num, stage_key):
        words = np.asarray(jax.random.key_data(stage_key)).ravel()
        generator = np.random.default_rng(words)
        stages.append(np.array([calibration.ranks(generator) for _ in range(num)]))
        return _p_values(stages[-1]).ravel()

    key, first_key = random.split(accel.as_key(request.key))
    # One data set tells how many quantities there are, and whether everything fits together.
    calibration.ranks(np.random.default_rng(np.asarray(jax.random.key_data(first_key)).ravel()))
    num_tests = len(calibration.names) * (len(_CUTS) + len(_INTERVALS))
    plan = level.plan(request.alpha)
    result = sequential_test(
        run_stage,
        num_tests,
        request.alpha,
        level.num_stages,
        level.growth,
        level.first,
        key=key,
        budget_s=request.budget_s,
    )
    ranks = stages[-1]
    finite = Check(
        name="draws are finite",
        passed=calibration.num_not_finite == 0,
        discrepancy=float(calibration.num_not_finite),
        words=f"{calibration.num_not_finite} fits gave draws or log densities that are NaN",
    )
    tests = _checks(calibration.names, ranks, result)
    worst = min(tests, key=lambda check: check.p_value or 0.0)
    verdict, words = result.verdict, worst.words
    if not finite.passed:
        verdict, words = "fail", finite.words
    elif verdict == "pass":
        words = f"nothing found; the largest deviation: {words}"
    elif verdict == "inconclusive":
        words = f"the budget ended after {len(ranks)} fits, undecided: {words}"
    return Findings(
        verdict,
        name_of(estimator),
        f"{DRAWS}: {DRAWS.statement}, π the posterior: ranks of the truth are uniform",
        (finite, *tests),
        words,
        _power(plan, num_tests),
        request.alpha,
        (
            "the bound on false alarms holds for exact and independent draws; those of SMC and "
            "MCMC are approximate, and enough replicates show it",
            _band_words(calibration.names, ranks),
            *calibration.complaints(),
        ),
    )


def _level(level: Any) -> Level:
    if isinstance(level, Level):
        return level
    if level not in _LEVELS:
        raise ValueError(
            f"an estimator is calibrated by simulation, and level={level!r} is not: choose one "
            f"of {sorted(_LEVELS)} or a Level"
        )
    return _LEVELS[level]


# ---------------------------------------------------------------- one data set


class _Calibration:
    """Fits simulated data and ranks the true parameters."""

    def __init__(self, estimator: Any, simulate: Any, observed: Callable | None):
        if not callable(simulate):
            raise TypeError(
                "an estimator needs start=simulate, a function of a key that returns true "
                "parameters from the prior (a dict of arrays) and data given them (the tuple "
                "of arguments of fit)"
            )
        self.estimator = estimator
        self.simulate = simulate
        self.observed = observed
        self.log_joint = _log_joint_of(estimator)
        if self.log_joint is None and observed is None:
            raise TypeError(
                "ranks of the parameters alone cannot tell a posterior from the prior, and the "
                f"log density of {name_of(estimator)} is not known: pass "
                "observed=(parameters, arguments) -> log likelihood"
            )
        self.names: list[str] = []
        self.num_fits = 0
        self.num_not_finite = 0
        self.warnings: list[str] = []

    def ranks(self, generator: np.random.Generator) -> np.ndarray:
        """Return the rank (num_quantities,) of each true value among 99 draws."""
        # Some samplers of JAX, those of the Poisson family among them, take no other generator.
        key = jax.random.key(int(generator.integers(2**31)), impl="threefry2x32")
        with jax.enable_x64(True):
            parameters, arguments = self._simulated(key)
        draws = self._draws(parameters, arguments, generator)
        both = {
            name: np.concatenate([np.asarray(value)[None], draws[name]])
            for name, value in parameters.items()
        }
        with jax.enable_x64(True):
            table = _quantities(
                both, arguments, observed=self.observed, log_joint=self.log_joint
            )
        if not self.names:
            self.names = _entries(table)
        values = np.concatenate(
            [np.asarray(v).reshape(_NUM_DRAWS + 1, -1) for v in table.values()], axis=1
        )
        self.num_fits += 1
        self.num_not_finite += not np.isfinite(values).all()
        truth, others = values[0], values[1:]
        ties = np.sum(others == truth, axis=0)
        # Among equal values every rank is equally likely.
        return np.sum(others < truth, axis=0) + generator.integers(0, ties + 1)

    def _simulated(self, key: Any) -> tuple[dict, tuple]:
        simulated = self.simulate(key)
        if not (
            isinstance(simulated, tuple)
            and len(simulated) == 2
            and isinstance(simulated[0], Mapping)
            and isinstance(simulated[1], tuple)
        ):
            raise TypeError(
                "start must return (parameters, arguments): a dict of arrays and a tuple, such "
                f"as ({{'mean': m}}, (X, y)); got {type(simulated).__name__}"
            )
        parameters, arguments = simulated
        # Estimators take NumPy arrays, in the precision that they choose themselves.
        arguments = jax.tree.map(
            lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, arguments
        )
        return {name: np.asarray(value) for name, value in parameters.items()}, arguments

    def _draws(self, parameters, arguments, generator) -> dict[str, np.ndarray]:
        from sklearn.base import clone

        fit_seed, draw_seed = (int(seed) for seed in generator.integers(2**31, size=2))
        fitted = clone(self.estimator)
        if "random_state" in fitted.get_params():
            fitted.set_params(random_state=fit_seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted.fit(*arguments)
        for warning in caught:
            if issubclass(warning.category, BayeskitWarning):
                self.warnings.append(str(warning.message))
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        draws = _posterior_draws(fitted, list(parameters), draw_seed)
        for name, value in parameters.items():
            if np.shape(draws[name]) != (_NUM_DRAWS, *value.shape):
                raise ValueError(
                    f"draws of {name!r} have shape {np.shape(draws[name])}, and its true value "
                    f"has {value.shape}: {(_NUM_DRAWS, *value.shape)} was expected"
                )
        return draws

    def complaints(self) -> tuple[str, ...]:
        """Return how many fits warned, and the first warning."""
        if not self.warnings:
            return ()
        first = self.warnings[0].splitlines()[0]
        return (f"{len(self.warnings)} warnings in {self.num_fits} fits, the first: {first}",)


def _posterior_draws(fitted: Any, names: list[str], seed: int) -> dict[str, np.ndarray]:
    if callable(getattr(fitted, "sample", None)):
        draws = fitted.sample(_NUM_DRAWS, random_state=seed)
        missing = [name for name in names if name not in draws]
    elif hasattr(fitted, "posterior_"):
        group = fitted.posterior_["posterior"]
        missing = [name for name in names if name not in group]
        draws = {name: _thinned(np.asarray(group[name])) for name in set(names) - set(missing)}
    else:
        raise TypeError(
            f"{type(fitted).__name__} has neither sample(num_draws, random_state) nor "
            "posterior_, so there are no draws to rank among"
        )
    if missing:
        raise ValueError(
            f"start simulates {missing}, which the posterior does not have: it has "
            f"{sorted(draws)}"
        )
    return {name: np.asarray(draws[name]) for name in names}


def _thinned(values: np.ndarray) -> np.ndarray:
    """Return draws at equal distances from values (chain, draw, ...)."""
    joined = values.reshape(-1, *values.shape[2:])
    if len(joined) < _NUM_DRAWS:
        raise ValueError(f"the posterior has {len(joined)} draws, and {_NUM_DRAWS} are needed")
    return joined[np.linspace(0, len(joined) - 1, _NUM_DRAWS).astype(int)]


# ---------------------------------------------------------------- what is ranked


@dataclass(frozen=True)
class _NumPyroJoint:
    """The log joint density of a NumPyro model at parameters in its own coordinates."""

    model: Callable

    def __call__(self, parameters, arguments):
        from numpyro.infer.util import log_density

        x, y = (*arguments, None, None)[:2]
        keywords = dict(x) if isinstance(x, Mapping) else ({} if x is None else {"X": x})
        keywords |= {} if y is None else {"y": y}
        return log_density(self.model, (), keywords, parameters)[0]


def _log_joint_of(estimator: Any) -> Callable | None:
    model = getattr(estimator, "model", None)
    if not callable(model) or isinstance(model, Target):
        return None
    return _NumPyroJoint(model)


@functools.partial(jax.jit, static_argnames=("observed", "log_joint"))
def _quantities(parameters, arguments, *, observed, log_joint) -> dict[str, jax.Array]:
    """Return all that is ranked, by name, for parameters with a leading axis."""

    def one(values):
        table = dict(values)
        if observed is not None:
            seen = observed(values, arguments)
            table |= seen if isinstance(seen, Mapping) else {"observed": seen}
        if log_joint is not None:
            table["the log joint density"] = log_joint(values, arguments)
        return table

    return jax.vmap(one)(parameters)


def _entries(table: dict[str, jax.Array]) -> list[str]:
    return [
        f"{name}[{', '.join(map(str, index))}]" if index else name
        for name, values in table.items()
        for index in np.ndindex(values.shape[1:])
    ]


# ---------------------------------------------------------------- uniform or not


def _counts(ranks: np.ndarray) -> np.ndarray:
    """Return how many ranks lie below each cut, and inside each central interval."""
    ranks = ranks[..., None]
    below = ranks < _CUTS
    inside = np.abs(2 * ranks - _NUM_DRAWS) < _INTERVALS
    return np.concatenate([below, inside], axis=-1).sum(axis=0)


def _p_values(ranks: np.ndarray) -> np.ndarray:
    """Return exact p-values (num_quantities, num_cuts) of ranks (num, num_quantities)."""
    shares = np.concatenate([_CUTS, _INTERVALS]) / (_NUM_DRAWS + 1)
    return binomial_p_values(_counts(ranks), len(ranks), shares)


def _checks(names: list[str], ranks: np.ndarray, result: Any) -> list[Check]:
    """Return one check for each quantity, at its worst cut or interval."""
    p_values = result.p_values.reshape(len(names), -1)
    counts = _counts(ranks)
    checks = []
    for name, row, p in zip(names, counts, p_values, strict=True):
        place = int(np.argmin(p))
        share = row[place] / len(ranks)
        if place < len(_CUTS):
            what = f"the true {name} lies below the {_CUTS[place]}% quantile of its draws"
        else:
            width = _INTERVALS[place - len(_CUTS)]
            what = f"the central {width}% interval of {name} covers the truth"
        checks.append(
            Check(
                name=f"ranks of {name}",
                passed=result.verdict != "fail" or p[place] > result.threshold,
                p_value=float(p[place]),
                words=f"{what} in {share:.1%} of {len(ranks)} data sets",
            )
        )
    return checks


def _band_words(names: list[str], ranks: np.ndarray) -> str:
    """Compare the distribution of ranks with a band that a uniform one keeps to."""
    levels = np.arange(1, _NUM_DRAWS + 1)
    below = np.mean(ranks[:, :, None] < levels, axis=0)
    gaps = np.abs(below - levels / (_NUM_DRAWS + 1)).max(axis=1)
    worst = int(np.argmax(gaps))
    # Massart (1990): holds at any number, for all levels at once. With the sum of the
    # probabilities it holds for all quantities at once.
    band = math.sqrt(math.log(2.0 * len(names) / 0.05) / (2.0 * len(ranks)))
    return (
        f"the distribution function of the ranks of {names[worst]} is up to {gaps[worst]:.3f} "
        f"from the uniform one, the most of {len(names)}; uniform ones all stay within "
        f"{band:.3f} with probability 0.95"
    )


def _power(plan: Any, num_tests: int) -> Power:
    effect = plan.detectable_effect(num_tests)
    words = (
        f"finds with probability 0.99 a 50% interval that covers the truth {0.5 * effect:.1%} "
        f"too often or too rarely, with up to {plan.replicates[-1]} data sets"
    )
    return Power(effect, 0.99, math.nan, plan.replicates, num_tests, words)
