"""Whether amortised posteriors cover the truth as often as they say, and where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import special

from bayeskit.errors import ValidationFailed
from bayeskit.inference.random import host_generator
from bayeskit.models.base import as_random_key
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.validation.ranks import binomial_p_values

__all__ = ["CalibrationReport", "calibration_report", "check_numbers"]

# Of the distribution of ranks: shares below, and central intervals, as of any estimator.
_CUTS = np.array([0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95])
_INTERVALS = np.array([0.50, 0.80, 0.90, 0.98])
# In a region there are fewer problems, and fewer questions.
_REGION_CUTS, _REGION_INTERVALS = np.array([0.50]), np.array([0.50, 0.90])
_NUM_REGIONS = 4
_FEWEST_PROBLEMS = 100
_COLUMNS = ["region", "statistic", "check", "expected", "observed", "se", "p_value", "passed"]


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationReport:
    r"""What simulations say about amortised posteriors.

    Each rank is uniform on (0, 1) if truths come from the posteriors that are checked, whatever
    the problem.

    Parameters
    ----------
    verdict : {"pass", "fail"}
    alpha : float
        Bound on the probability that exact posteriors fail.
    ranks : dict of (num,) arrays in (0, 1)
        ``"x[i]"``: distribution function of the posterior at the true coordinate;
        ``"log density"``: of the truth under the posterior, among draws of it;
        ``"log likelihood"``: likewise, where it is known; ``"component"``: of the probability
        that the truth belongs to the heaviest component; ``"distance"``: from a random point,
        which makes TARP; ``"distance from a guess"``: from a guess made of the data, which
        sees posteriors that do not use them.
    table : list of tuples
        The rows of :meth:`to_frame`.
    mean_log_density : float
        Of the truth under the posteriors. Differences are those of expected
        Kullback-Leibler divergences.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari & Gelman (2018), *Validating Bayesian inference
    algorithms with simulation-based calibration*; Lemos, Coogan, Hezaveh & Perreault-Levasseur
    (2023), *Sampling-based accuracy testing of posterior estimators*; Modrak et al. (2023) for
    the likelihood as a statistic.
    """

    verdict: str
    alpha: float
    ranks: dict[str, np.ndarray]
    table: list[tuple]
    mean_log_density: float

    @property
    def num_problems(self) -> int:
        """Number of simulated problems."""
        return len(next(iter(self.ranks.values())))

    def to_frame(self) -> Any:
        """Return a table with one row for each check, as pandas.DataFrame.

        Columns: region (``"all"``, or a feature of the prior or the data and its range),
        statistic, check, expected and observed frequency, standard error, p-value, passed.
        """
        import pandas as pd

        return pd.DataFrame(self.table, columns=_COLUMNS)

    def coverage(self, statistic: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return levels (99,) and how often credible sets of these levels cover the truth.

        Parameters
        ----------
        statistic : str, optional
            Of the ranks. Central intervals of a coordinate; sets of highest density by
            ``"log density"``; balls around random points by ``"distance"``, which is TARP.
            Default: highest density.
        """
        name = "log density" if statistic is None else statistic
        if name not in self.ranks:
            raise ValueError(f"statistic must be one of {sorted(self.ranks)}, got {name!r}")
        levels, rank = np.arange(1, 100) / 100, self.ranks[name]
        if name == "log density":
            place = 1.0 - rank
        elif name == "distance":
            place = rank
        else:
            place = np.abs(2.0 * rank - 1.0)
        return levels, np.mean(place[:, None] <= levels, axis=0)

    def band(self) -> float:
        """Return how far from uniform all distributions of ranks stay with probability 0.95.

        By the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart, at all places and for all
        statistics at once.
        """
        return math.sqrt(math.log(2.0 * len(self.ranks) / 0.05) / (2.0 * self.num_problems))

    @property
    def worst(self) -> str:
        """The most suspicious check in words, with the region where it fails."""
        return _words(min(self.table, key=lambda row: (row[-1], row[-2])))

    @property
    def failing_regions(self) -> list[str]:
        """Regions in which a check fails, by the smallest p-value; ``"all"`` among them."""
        failed = sorted((row for row in self.table if not row[-1]), key=lambda row: row[-2])
        return list(dict.fromkeys(row[0] for row in failed))

    def raise_if_failed(self) -> None:
        """Raise ValidationFailed, with the worst check, unless the verdict is a pass."""
        if self.verdict != "pass":
            raise ValidationFailed(f"posteriors are not calibrated: {self.worst}")

    def __repr__(self) -> str:
        lines = [f"CalibrationReport: {self.verdict}, {self.num_problems} problems"]
        prefix = "largest deviation" if self.verdict == "pass" else "worst"
        lines.append(f"{prefix}: {self.worst}")
        if self.failing_regions:
            lines.append("fails in: " + "; ".join(self.failing_regions[:4]))
        return "\n".join(lines)


def calibration_report(
    latents: np.ndarray,
    posteriors: Mixture,
    references: np.ndarray,
    *,
    guesses: np.ndarray | None = None,
    log_likelihood: Callable | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    num_draws: int = 99,
    alpha: float = 1e-4,
    random_state: Any = 0,
) -> CalibrationReport:
    r"""Return the calibration of posteriors of simulated problems.

    Problem b has a latent :math:`u_b` from its prior, data from the latent, and the posterior
    given prior and data that is to be checked.

    Parameters
    ----------
    latents : (num, d) array
        True latents, in unconstrained coordinates.
    posteriors : Mixture
        Batch of ``num``, in the same coordinates.
    references : (num, d) array
        Random points that know nothing of the truths, such as other draws from the priors.
    guesses : (num, d) array, optional
        Of the latents, made of the prior and the data of each problem by a rule that knows
        nothing of these truths. Better guesses find a smaller neglect of the data.
    log_likelihood : callable (u) -> (L, num) array, optional
        Of the data of each problem at latents (L, num, d).
    features : dict of (num,) arrays, optional
        What regions are made of. Each is cut at its quartiles.
    num_draws : int
        Posterior draws for each problem, for ranks without a formula.
    alpha : float in (0, 1)
        Bound on the probability that exact posteriors fail, all checks together.
    random_state : int, numpy RandomState or Generator, JAX key, or None

    Raises
    ------
    ValueError
        For fewer than 100 problems, no draws, or an ``alpha`` that is no probability.

    Notes
    -----
    Ranks of coordinates are exact: the distribution function of a mixture needs no draws. Each
    check counts ranks below a cut, or inside a central interval, and its p-value is that of an
    exact binomial test. Half of ``alpha`` is spent on all problems, half on regions.
    """
    num = len(latents)
    check_numbers(num, num_draws, alpha)
    generator = host_generator(as_random_key(random_state))
    posteriors = Mixture(*(np.asarray(leaf, np.float64) for leaf in posteriors))
    latents = np.asarray(latents, np.float64)
    draws = GaussianMixture.of_arrays(posteriors).sample(num_draws, generator)
    log_density = mixture_arrays.log_density(posteriors, latents)
    ranks = {f"x[{i}]": value for i, value in enumerate(_marginal_ranks(latents, posteriors).T)}
    among: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "log density": (log_density, mixture_arrays.log_density(posteriors, draws)),
        "distance": _distances(latents, draws, posteriors, np.asarray(references)),
    }
    if guesses is not None:
        away = _distances(latents, draws, posteriors, np.asarray(guesses))
        among["distance from a guess"] = away
    if posteriors.log_weights.shape[-1] > 1:
        among["component"] = (
            _heaviest_share(posteriors, latents),
            _heaviest_share(posteriors, draws),
        )
    if log_likelihood is not None:
        at_truth = np.asarray(log_likelihood(latents[None]))[0]
        among["log likelihood"] = at_truth, np.asarray(log_likelihood(draws))
    for name, (truth, others) in among.items():
        ranks[name] = _rank_among(truth, others, generator)
    table = _checked(ranks, features or {}, alpha)
    verdict = "pass" if all(row[-1] for row in table) else "fail"
    return CalibrationReport(verdict, alpha, ranks, table, float(log_density.mean()))


def check_numbers(num: Any, num_draws: Any, alpha: Any) -> None:
    """Refuse numbers of problems and draws, and levels, that make no report.

    Raises
    ------
    ValueError
    """
    if not isinstance(num, int | np.integer) or num < _FEWEST_PROBLEMS:
        raise ValueError(
            f"the number of problems must be a whole number >= {_FEWEST_PROBLEMS}, got {num!r}"
        )
    if not isinstance(num_draws, int | np.integer) or num_draws < 1:
        raise ValueError(f"the number of draws must be a whole number >= 1, got {num_draws!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be a probability in (0, 1), got {alpha!r}")


# ---------------------------------------------------------------- ranks


def _marginal_ranks(latents: np.ndarray, posteriors: Mixture) -> np.ndarray:
    """Return the distribution function (num, d) of each coordinate at the truth."""
    factors = posteriors.factors
    sd = np.sqrt(np.einsum("nkij,nkij->nki", factors, factors))
    below = special.ndtr((latents[:, None, :] - posteriors.means) / sd)
    return np.einsum("nk,nki->ni", np.exp(posteriors.log_weights), below)


def _distances(
    latents: np.ndarray, draws: np.ndarray, posteriors: Mixture, references: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances from the references, in standard deviations of each posterior."""
    _, covariance = mixture_arrays.moments(posteriors)
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    of = lambda u: np.linalg.norm((u - references) / sd, axis=-1)
    return of(latents), of(draws)


def _heaviest_share(posteriors: Mixture, u: np.ndarray) -> np.ndarray:
    """Return the probability that points belong to the heaviest component."""
    logs = mixture_arrays.component_log_densities(posteriors, u)
    shares = special.softmax(logs, axis=-1)
    heaviest = posteriors.log_weights.argmax(axis=-1)
    index = np.broadcast_to(heaviest[..., None], (*shares.shape[:-1], 1))
    return np.take_along_axis(shares, index, axis=-1)[..., 0]


def _rank_among(
    truth: np.ndarray, draws: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return ranks in (0, 1) of truths (num,) among draws (L, num).

    A uniform number spreads each rank over its cell, and over all cells of equal values.
    """
    less = (draws < truth).sum(axis=0)
    equal = (draws == truth).sum(axis=0)
    return (less + (equal + 1) * generator.random(len(truth))) / (len(draws) + 1)


# ---------------------------------------------------------------- uniform or not


def _checked(
    ranks: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray], alpha: float
) -> list[tuple]:
    num = len(next(iter(ranks.values())))
    everything = [
        ("all", name, *row)
        for name, values in ranks.items()
        for row in _counted(values, _CUTS, _INTERVALS)
    ]
    regions = [
        (region, name, *row)
        for region, chosen in _regions(features, num)
        for name, values in ranks.items()
        for row in _counted(values[chosen], _REGION_CUTS, _REGION_INTERVALS)
    ]
    table = []
    for rows in (everything, regions):
        # Half of alpha for each kind, and for each row of it an equal part.
        table += [(*row, bool(row[-1] > 0.5 * alpha / len(rows))) for row in rows]
    return table


def _counted(ranks: np.ndarray, cuts: np.ndarray, intervals: np.ndarray) -> list[tuple]:
    below = [(f"below {cut:.0%}", cut, ranks < cut) for cut in cuts]
    inside = [
        (f"central {width:.0%} interval", width, np.abs(2.0 * ranks - 1.0) < width)
        for width in intervals
    ]
    rows, num = [], len(ranks)
    for words, expected, hits in below + inside:
        count = int(hits.sum())
        p_value = float(binomial_p_values(np.array(count), num, np.array(expected)))
        error = math.sqrt(expected * (1.0 - expected) / num)
        rows.append((words, float(expected), count / num, error, p_value))
    return rows


def _regions(features: Mapping[str, np.ndarray], num: int) -> list[tuple[str, np.ndarray]]:
    """Return the quarters of each feature, with their names."""
    found = []
    for name, values in features.items():
        values = np.asarray(values, np.float64)
        ends = np.unique(np.quantile(values, np.linspace(0, 1, _NUM_REGIONS + 1)))
        for i, (low, high) in enumerate(pairwise(ends)):
            last = i == len(ends) - 2
            chosen = (values >= low) & ((values <= high) if last else (values < high))
            # A quarter of few problems cannot fail, and costs power.
            if len(ends) > 2 and chosen.sum() >= _FEWEST_PROBLEMS / _NUM_REGIONS:
                right = "]" if last else ")"
                found.append((f"{name} in [{low:.3g}, {high:.3g}{right}", chosen))
    return found


def _words(row: tuple) -> str:
    region, statistic, check, expected, observed, error, p_value, _ = row
    where = "" if region == "all" else f", where {region}"
    what = (
        f"the {check} of {statistic} covers the truth"
        if check.startswith("central") and statistic.startswith("x[")
        else f"the rank of {statistic} is {check.replace('central', 'in the central')}"
    )
    return (
        f"{what} in {observed:.1%} ± {error:.1%} of problems instead of {expected:.0%}{where} "
        f"(p = {p_value:.2g})"
    )
