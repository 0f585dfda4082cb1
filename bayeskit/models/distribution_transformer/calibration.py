"""Whether amortised posteriors cover the truth as often as they say, and where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from bayeskit.errors import ValidationFailed
from bayeskit.inference.random import host_generator
from bayeskit.models.base import as_random_key
from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.against_refined import (
    C2ST,
    Comparison,
    ExactPosteriors,
    compared,
    gap_in_words,
)
from bayeskit.models.distribution_transformer.calibration_checks import (
    COLUMNS,
    FEWEST_PROBLEMS,
    checked,
    in_words,
)
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture

__all__ = ["CalibrationReport", "calibration_report", "check_numbers"]


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
    comparison : Comparison or None
        Of amortised draws with refined ones, where the likelihood is known.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari & Gelman (2018), *Validating Bayesian inference
    algorithms with simulation-based calibration*; Lemos, Coogan, Hezaveh & Perreault-Levasseur
    (2023), *Sampling-based accuracy testing of posterior estimators*; Modrak et al. (2023) for
    the likelihood as a statistic.

    Examples
    --------
    Ranks that crowd at both ends, as of posteriors that are too narrow:

    >>> import numpy as np
    >>> from bayeskit.models.distribution_transformer import CalibrationReport
    >>> ranks = np.concatenate([np.linspace(0.01, 0.2, 50), np.linspace(0.8, 0.99, 50)])
    >>> report = CalibrationReport("fail", 1e-3, {"x[0]": ranks}, [], -1.2)
    >>> levels, covered = report.coverage("x[0]")
    >>> float(levels[89]), float(covered[89]), round(report.band(), 3)
    (0.9, 0.78, 0.136)
    """

    verdict: str
    alpha: float
    ranks: dict[str, np.ndarray]
    table: list[tuple]
    mean_log_density: float
    comparison: Comparison | None = None

    @property
    def num_problems(self) -> int:
        """Number of simulated problems."""
        return len(next(iter(self.ranks.values())))

    @property
    def c2st(self) -> float:
        """How often the best classifier tells a refined draw from an amortised one.

        0.5 if posteriors are exact; NaN without a likelihood. The best classifier asks where
        the ratio of exact and amortised density is larger: nothing has to be learned, and all
        problems are held out.
        """
        return float(self.comparison.hits[C2ST].mean()) if self.comparison else math.nan

    @property
    def energy_gap(self) -> float:
        """Energy score of the amortised posteriors at refined draws, less at their own.

        In standard deviations of each posterior: 0 if they are exact, positive for narrow and
        negative for wide ones; NaN without a likelihood.
        """
        return float(self.comparison.energy_gaps.mean()) if self.comparison else math.nan

    def to_frame(self) -> Any:
        """Return a table with one row for each check, as pandas.DataFrame.

        Columns: region (``"all"``, or a feature of the prior or the data and its range),
        statistic, check, expected and observed frequency, standard error, p-value, passed.
        """
        import pandas as pd

        return pd.DataFrame(self.table, columns=COLUMNS)

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
        return in_words(min(self.table, key=lambda row: (row[-1], row[-2])))

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
        if self.comparison is not None:
            lines.append(gap_in_words(self.comparison))
        if self.verdict == "pass":
            lines.append(f"no check fails; the least likely: {self.worst}")
        else:
            lines.append(f"worst: {self.worst}")
        if self.failing_regions:
            lines.append("fails in: " + "; ".join(self.failing_regions[:4]))
        return "\n".join(lines)


def calibration_report(
    latents: np.ndarray,
    posteriors: Mixture,
    references: np.ndarray,
    *,
    guesses: np.ndarray | None = None,
    exact: ExactPosteriors | None = None,
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
    exact : ExactPosteriors, optional
        Likelihood and prior of each problem, where they are known.
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

    Where the likelihood is known, draws from each posterior are compared with draws that one
    move of the exact posterior has refined. Of exact posteriors the two are exchangeable, so
    that each is the larger by any score in half of the pairs.
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
    comparison = None
    if exact is not None:
        _, found = exact.log_densities(np.concatenate([latents[None], draws]))
        values = np.asarray(found)
        among["log likelihood"] = values[0], values[1:]
        comparison = compared(posteriors, exact, draws, generator)
    for name, (truth, others) in among.items():
        ranks[name] = _rank_among(truth, others, generator)
    table = checked(ranks, comparison.hits if comparison else {}, features or {}, alpha)
    verdict = "pass" if all(row[-1] for row in table) else "fail"
    mean_log_density = float(log_density.mean())
    return CalibrationReport(verdict, alpha, ranks, table, mean_log_density, comparison)


def check_numbers(num: Any, num_draws: Any, alpha: Any) -> None:
    """Refuse numbers of problems and draws, and levels, that make no report.

    Raises
    ------
    ValueError
    """
    if not isinstance(num, int | np.integer) or num < FEWEST_PROBLEMS:
        raise ValueError(
            f"the number of problems must be a whole number >= {FEWEST_PROBLEMS}, got {num!r}"
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
