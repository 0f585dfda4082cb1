"""The evidence from draws of the posterior: bridge sampling with a mirrored normal."""

from __future__ import annotations

import numpy as np
from scipy import linalg
from scipy.special import logsumexp

from bayeskit.inference.engines.ensemble.program import Program
from bayeskit.inference.engines.ensemble.warm_up import factor_of

__all__ = ["bridge", "log_evidence_of"]

_ENOUGH_DRAWS = 2000
_WANTED_ERROR = 0.02
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-10


def log_evidence_of(
    program: Program, positions: np.ndarray, generator: np.random.Generator
) -> tuple[float, float]:
    r"""Return the log of the integral of the density, and its standard error.

    Half of the chains fit a normal, the other half are bridged to it, then the other way
    round; the two estimates are averaged. In coordinates whitened by the normal, the density is
    replaced by :math:`(\gamma(z) + \gamma(-z))/2`, which has the same integral and no skewness.

    Parameters
    ----------
    positions : (chain, draw, dim) array
        Chains that are long against their memory.

    Notes
    -----
    Cost: four gradients, as the program has no values without them, for each of about 2000
    draws; for each of all draws if the error would be larger than 0.02.

    References
    ----------
    Meng & Wong (1996); Meng & Schilling (2002), *Warp bridge sampling*; Overstall & Forster
    (2010) for the split.
    """
    every = max(1, positions.shape[0] * positions.shape[1] // _ENOUGH_DRAWS)
    found = _estimate(program, positions, every, generator)
    if every > 1 and not found[1] < _WANTED_ERROR:
        found = _estimate(program, positions, 1, generator)
    return found


def _estimate(
    program: Program, positions: np.ndarray, every: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the estimate that bridges every so many draws."""
    estimates = []
    dim = positions.shape[2]
    for parity in (0, 1):
        fitted, used = positions[1 - parity :: 2], positions[parity::2, ::every]
        mean, factor = factor_of(fitted.reshape(-1, dim), np.eye(dim))
        z = linalg.solve_triangular(factor, (used.reshape(-1, dim) - mean).T, lower=True).T
        proposals = generator.standard_normal(z.shape)
        log_normal = -0.5 * dim * np.log(2 * np.pi) - np.log(np.diagonal(factor)).sum()

        def log_ratio(points, mean=mean, factor=factor, log_normal=log_normal):
            here = program.log_density(mean + points @ factor.T)
            there = program.log_density(mean - points @ factor.T)
            log_gamma = np.logaddexp(here, there) - np.log(2.0)
            return log_gamma - log_normal + 0.5 * np.sum(points**2, axis=1)

        on_chains = log_ratio(z).reshape(used.shape[:2])
        estimates.append(bridge(on_chains, log_ratio(proposals)))
    values, from_proposals, from_chains = np.array(estimates).T
    # Where the density is nearly normal, what one half lacks is seen by the fit of the other:
    # the errors from the chains are nearly the same twice, those from the proposals are not.
    variance = from_proposals.sum() / 4.0 + np.sqrt(from_chains).mean() ** 2
    return float(values.mean()), float(np.sqrt(variance))


def bridge(on_chains: np.ndarray, on_proposals: np.ndarray) -> tuple[float, float, float]:
    r"""Return the log ratio of two normalising constants, and variances of its estimate.

    The variance has a part from the proposals and one from the chains.

    Parameters
    ----------
    on_chains : (chain, draw) array
        :math:`\ell = \log \gamma - \log q` at draws of :math:`\gamma`; chains are independent.
    on_proposals : (num,) array
        The same at independent draws of q.
    """
    shift = float(np.median(on_chains))
    chains, proposals = on_chains - shift, on_proposals - shift
    share = chains.size / (chains.size + proposals.size)

    def terms(log_r: float) -> tuple[np.ndarray, np.ndarray]:
        def log_mixture(log_ratio):
            return np.logaddexp(np.log(share) + log_ratio, np.log1p(-share) + log_r)

        return proposals - log_mixture(proposals), -log_mixture(chains)

    log_r = 0.0
    for _ in range(_MAX_ITERATIONS):
        above, below = terms(log_r)
        new = float(
            logsumexp(above) - np.log(above.size) - logsumexp(below) + np.log(below.size)
        )
        if abs(new - log_r) < _TOLERANCE:
            break
        log_r = new
    above, below = (np.exp(t - t.max()) for t in terms(log_r))
    # Chains are long enough to forget their start: their means vary as independent numbers.
    by_chain = below.mean(axis=1)
    from_proposals = above.var(ddof=1) / above.size / above.mean() ** 2
    from_chains = by_chain.var(ddof=1) / by_chain.size / by_chain.mean() ** 2
    return log_r + shift, float(from_proposals), float(from_chains)
