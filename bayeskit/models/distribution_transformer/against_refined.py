r"""Amortised draws beside draws that a move of the exact posterior has refined.

Each refined draw starts as a draw from the amortised posterior q. One move of iterated sampling
importance resampling then chooses among it and proposals from

.. math:: g = \tfrac12 q + \tfrac14 q_{\text{wide}} + \tfrac14 p(u \mid \phi)

by weights :math:`p(z \mid u)\, p(u \mid \phi) / g(u)`. The move leaves the exact posterior
as it is. If q is exact, an amortised and a refined draw of the same problem are therefore two
independent draws from one law, however few proposals there are: each is as likely as the other
to be the larger by any score, and counts are binomial. If q is not exact, the refined one has
moved towards the exact posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bayeskit.models.distribution_transformer import mixture_arrays
from bayeskit.models.distribution_transformer.gaussian_mixture import GaussianMixture
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture

__all__ = ["NUM_PAIRS", "NUM_PROPOSALS", "Comparison", "ExactPosteriors", "compared"]

# Pairs of an amortised and a refined draw for each problem, and proposals for each of the
# latter: with the draws themselves 128 points, whose densities are one call of one program.
NUM_PAIRS, NUM_PROPOSALS = 8, 14
_WIDENING = 2.0
_SHARES = np.array([0.5, 0.25, 0.25])
C2ST, ENERGY = "C2ST", "energy score"


class ExactPosteriors(NamedTuple):
    """The exact posteriors of a batch of problems, up to their evidence.

    Attributes
    ----------
    log_densities : callable (u) -> pair of (L, num) arrays
        Log prior and log likelihood at latents (L, num, d).
    prior_draws : (NUM_PAIRS * NUM_PROPOSALS, num, d) array
        Independent draws from the prior of each problem.
    """

    log_densities: Callable
    prior_draws: np.ndarray


class Comparison(NamedTuple):
    """Amortised draws beside refined ones.

    Attributes
    ----------
    hits : dict of (num, NUM_PAIRS) arrays of bool
        Whether the refined draw of each pair has the larger score. ``"C2ST"``: the ratio of
        exact and amortised density, which is the best classifier of pairs that there is;
        ``"energy score"``: that of the amortised posterior, in its standard deviations.
    energy_gaps : (num,) array
        Energy score of the amortised posterior at refined draws, less that at its own.
    """

    hits: dict[str, np.ndarray]
    energy_gaps: np.ndarray


def compared(
    posteriors: Mixture,
    exact: ExactPosteriors,
    draws: np.ndarray,
    generator: np.random.Generator,
) -> Comparison:
    """Return how amortised posteriors compare with what refines them.

    Parameters
    ----------
    posteriors : Mixture
        Batch of ``num``.
    exact : ExactPosteriors
    draws : (L, num, d) array
        From the posteriors, used for the energy score alone.
    """
    num, d = posteriors.means.shape[0], posteriors.means.shape[-1]
    own = GaussianMixture.of_arrays(posteriors)
    amortised = own.sample(NUM_PAIRS, generator)
    pools = np.empty((NUM_PAIRS, NUM_PROPOSALS + 1, num, d))
    pools[:, 0] = own.sample(NUM_PAIRS, generator)
    pools[:, 1:] = _proposals(posteriors, exact, generator)
    points = np.concatenate([amortised, pools.reshape(-1, num, d)])
    log_prior, log_likelihood = (
        np.asarray(values, np.float64) for values in exact.log_densities(points)
    )
    log_joint = log_prior + log_likelihood
    # Neither NaN nor +inf is a density.
    log_joint = np.where(np.isfinite(log_joint), log_joint, -np.inf)
    log_q = mixture_arrays.log_density(posteriors, points)
    wide = posteriors._replace(factors=_WIDENING * posteriors.factors)
    with np.errstate(divide="ignore"):
        parts = np.stack([log_q, mixture_arrays.log_density(wide, points), log_prior])
        log_g = np.logaddexp.reduce(parts + np.log(_SHARES)[:, None, None], axis=0)
    log_weights = np.where(log_joint > -np.inf, log_joint - log_g, -np.inf)
    log_weights = log_weights[NUM_PAIRS:].reshape(pools.shape[:-1])
    chosen = _chosen(log_weights, generator)
    refined = np.take_along_axis(pools, chosen[:, None, :, None], axis=1)[:, 0]
    ratio = log_joint - log_q
    of_refined = np.take_along_axis(
        ratio[NUM_PAIRS:].reshape(pools.shape[:-1]), chosen[:, None], axis=1
    )[:, 0]
    _, covariance = mixture_arrays.moments(posteriors)
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    energy_amortised, energy_refined = (
        np.stack([np.linalg.norm((one - draws) / sd, axis=-1).mean(axis=0) for one in points])
        for points in (amortised, refined)
    )
    hits = {
        C2ST: _larger(of_refined, ratio[:NUM_PAIRS], generator),
        ENERGY: _larger(energy_refined, energy_amortised, generator),
    }
    return Comparison(hits, (energy_refined - energy_amortised).mean(axis=0))


def _proposals(
    posteriors: Mixture, exact: ExactPosteriors, generator: np.random.Generator
) -> np.ndarray:
    """Return independent draws (NUM_PAIRS, NUM_PROPOSALS, num, d) from g for each problem."""
    count = NUM_PAIRS * NUM_PROPOSALS
    wide = posteriors._replace(factors=_WIDENING * posteriors.factors)
    kinds = [
        GaussianMixture.of_arrays(posteriors).sample(count, generator),
        GaussianMixture.of_arrays(wide).sample(count, generator),
        np.asarray(exact.prior_draws, np.float64),
    ]
    num, d = kinds[0].shape[1:]
    kind = generator.choice(len(_SHARES), (count, num), p=_SHARES)[..., None]
    chosen = np.where(kind == 0, kinds[0], np.where(kind == 1, kinds[1], kinds[2]))
    return chosen.reshape(NUM_PAIRS, NUM_PROPOSALS, num, d)


def _chosen(log_weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return places (R, num), with the probabilities of weights (R, L, num) over L.

    The largest of logarithms with Gumbel noise; the first place, where no weight is positive.
    """
    noise = generator.gumbel(size=log_weights.shape)
    return np.argmax(log_weights + noise, axis=1)


def _larger(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return whether a (R, num) is larger than b, as (num, R); a coin where they are equal."""
    coin = generator.random(a.shape) < 0.5
    return np.where(a == b, coin, a > b).T


def gap_in_words(comparison: Comparison) -> str:
    """Return the accuracy of the classifier and the difference of energy scores."""
    hits, gaps = comparison.hits[C2ST], comparison.energy_gaps
    se = 0.5 / math.sqrt(hits.size)
    return (
        f"C2ST against refined draws {hits.mean():.3f} ± {se:.3f}; energy score "
        f"{gaps.mean():+.3f} ± {gaps.std() / math.sqrt(len(gaps)):.3f} sd"
    )
