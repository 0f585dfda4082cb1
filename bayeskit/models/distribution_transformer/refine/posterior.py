"""What refinement returns: weighted draws, evidence, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference.equal_weights import equally_weighted
from bayeskit.inference.measure import Target
from bayeskit.inference.random import host_generator
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.distribution_transformer.mixture_checks import checked_points
from bayeskit.models.distribution_transformer.supports import Support

__all__ = ["RefinedBatch", "RefinedPosterior"]


@quick_jit(optimised=False)
def _log_joint(target: Target, u: jax.Array) -> jax.Array:
    return jax.vmap(lambda one: target.components(one).sum())(u)


@dataclass(frozen=True, eq=False, repr=False)
class RefinedPosterior:
    r"""Draws that stand for the exact posterior, however good the network was.

    Weighted draws are never handed out as equal ones: ``draws`` are equally weighted, and safe
    for a histogram; ``weights`` belong to ``weighted_draws``.

    Parameters
    ----------
    method : {"psis", "smc", "refit", "mcmc"}
        How the draws were made. ``"refit"``: by importance sampling from a mixture that was
        fitted to the particles of SMC.
    positions : (num, d) array
        In unconstrained coordinates, chain after chain.
    log_weights : (num,) array
        Normalised. Of importance sampling after Pareto smoothing; equal ones otherwise.
    ess : float
        Effective sample size: one over the sum of squared weights, or the smallest bulk one,
        which is an estimate and can exceed the number of draws.
    khat : float
        Shape of the tail of the importance weights of the amortised posterior alone. Above 0.7
        it misses a part of the exact one, or has lighter tails. -inf: all weights were equal.
    defended_khat : float
        The same with a twentieth of the prior mixed in, whose weights are bounded. They are the
        ones in use, and the verdict is on them.
    log_evidence, log_evidence_se : float
        :math:`\log p(z)` and its Monte-Carlo standard error.
    r_hat : float
        Of ``"mcmc"`` and ``"smc"``, else NaN.
    reasons : tuple of str
        Why the result cannot be trusted yet; empty if nothing was found.
    num_chains : int
    law : str
        What the numbers are guaranteed to be.
    support : Support
        Of the parameters.
    target : Target
    acceptance : float
    seed : int
        Of the draws that are made when asked for.

    Examples
    --------
    >>> import bayeskit as bk
    >>> from bayeskit.models.distribution_transformer import (
    ...     GaussianMixtureMetaPrior,
    ...     LinearGaussian,
    ... )
    >>> dt = bk.DistributionTransformer(
    ...     simulator=LinearGaussian(1.0, 1.0, num_observations=(1, 10)),
    ...     meta_prior=GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
    ...     random_state=0,
    ... ).fit()
    >>> prior = bk.GaussianMixture([0.5, 0.5], [-2.0, 2.0], [1.0, 1.0])
    >>> refined = dt.posterior([1.0], prior=prior, refine="psis", n_draws=200, random_state=0)
    >>> refined.reliable, refined.draws.shape, refined.log_evidence
    (True, (200, 1), -2.1)
    """

    method: str
    positions: np.ndarray
    log_weights: np.ndarray
    support: Support
    target: Target
    ess: float
    khat: float
    log_evidence: float
    log_evidence_se: float
    defended_khat: float = math.nan
    r_hat: float = math.nan
    reasons: tuple[str, ...] = ()
    num_chains: int = 1
    law: str = ""
    acceptance: float = math.nan
    seed: int = field(default=0)

    @property
    def reliable(self) -> bool:
        """Whether no reason for doubt was found."""
        return not self.reasons

    @property
    def weights(self) -> np.ndarray:
        """Weights (num,) of ``weighted_draws``, with sum 1."""
        return np.exp(self.log_weights)

    @cached_property
    def weighted_draws(self) -> np.ndarray:
        """Draws (num, d) of the latent, to be used with ``weights`` only."""
        with precision_scope("float64"):
            return np.asarray(self.support.constrain(self.positions))

    @property
    def _is_weighted(self) -> bool:
        return bool(np.ptp(self.log_weights) > 0)

    @cached_property
    def draws(self) -> np.ndarray:
        """Equally weighted draws (num, d) of the latent: resampled where weights differ."""
        if not self._is_weighted:
            return self.weighted_draws
        return self.sample(len(self.positions), self.seed)

    def sample(self, num: int = 1, random_state: Any = None) -> np.ndarray:
        """Return equally weighted draws (num, d), by resampling from those at hand."""
        with precision_scope("float64"):
            places = equally_weighted(as_random_key(random_state), self.log_weights, num)
        return self.weighted_draws[places]

    def log_prob(self, x: Any) -> np.ndarray:
        """Return the log density (num,) at points (num, d): prior times likelihood/evidence.

        Its only error is that of the log evidence. Outside the support the density is 0.
        """
        x = checked_points(x, self.support.constrained_dim)
        points = x.reshape(-1, x.shape[-1])
        with precision_scope("float64"):
            inside = np.asarray(self.support.contains(points))
            u = np.asarray(self.support.unconstrain(points))
            u = np.where(inside[:, None], u, 0.0)
            values = np.asarray(_log_joint(self.target, u)) - self.log_evidence
            values = values - np.asarray(self.support.log_det(u))
        return np.where(inside, values, -np.inf).reshape(x.shape[:-1])

    @property
    def mean(self) -> np.ndarray:
        """Mean (d,) of the latent."""
        return self.weights @ self.weighted_draws

    @property
    def cov(self) -> np.ndarray:
        """Covariance (d, d) of the latent."""
        deviations = self.weighted_draws - self.mean
        return (self.weights[:, None] * deviations).T @ deviations

    @property
    def std(self) -> np.ndarray:
        """Standard deviations (d,) of the latent."""
        return np.sqrt(np.diagonal(self.cov))

    def quantile(self, q: Any) -> np.ndarray:
        """Return quantiles (d,) or (num, d) of each coordinate of the latent."""
        levels = np.atleast_1d(np.asarray(q, np.float64))
        columns = []
        for column in self.weighted_draws.T:
            order = np.argsort(column, kind="stable")
            # Each draw stands for the middle of its step of the distribution function.
            weights = self.weights[order]
            columns.append(np.interp(levels, np.cumsum(weights) - 0.5 * weights, column[order]))
        found = np.stack(columns, axis=-1)
        return found if np.ndim(q) else found[0]

    def to_arviz(self) -> Any:
        """Return an ArviZ object with the equally weighted draws of ``x``, by chain."""
        from bayeskit.interop.arviz import to_arviz

        draws = self.draws
        return to_arviz(
            {"posterior": {"x": draws.reshape(self.num_chains, -1, draws.shape[1])}}
        )

    def __repr__(self) -> str:
        verdict = "reliable" if self.reliable else "; ".join(self.reasons)
        khat = "-inf (all weights equal)" if self.khat == -math.inf else f"{self.khat:.2f}"
        return (
            f"RefinedPosterior(method={self.method!r}, num_draws={len(self.positions)}, "
            f"ess={self.ess:.0f}, khat={khat}, log_evidence={self.log_evidence:.3f} "
            f"± {self.log_evidence_se:.3f}: {verdict})"
        )


class RefinedBatch(Sequence):
    """Refined posteriors of several problems, with what each says as arrays.

    Indexing gives one :class:`RefinedPosterior`.

    Parameters
    ----------
    posteriors : sequence of RefinedPosterior

    Examples
    --------
    >>> import bayeskit as bk
    >>> from bayeskit.models.distribution_transformer import (
    ...     GaussianMixtureMetaPrior,
    ...     LinearGaussian,
    ... )
    >>> dt = bk.DistributionTransformer(
    ...     simulator=LinearGaussian(1.0, 1.0, num_observations=(1, 10)),
    ...     meta_prior=GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
    ...     random_state=0,
    ... ).fit()
    >>> prior = bk.GaussianMixture([1.0], [0.0], [1.0])
    >>> data = [[[1.0]], [[3.0]]]  # problem, observation, number
    >>> batch = dt.posterior(data, prior=prior, refine="psis", n_draws=200, random_state=0)
    >>> len(batch), batch.reliable.tolist(), batch.mean.shape
    (2, [True, True], (2, 1))
    """

    def __init__(self, posteriors: Sequence[RefinedPosterior]):
        self._posteriors = list(posteriors)

    def __len__(self) -> int:
        return len(self._posteriors)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return RefinedBatch(self._posteriors[index])
        return self._posteriors[index]

    def __iter__(self) -> Iterator[RefinedPosterior]:
        return iter(self._posteriors)

    def _stacked(self, name: str) -> np.ndarray:
        return np.stack([np.asarray(getattr(one, name)) for one in self])

    @property
    def method(self) -> list[str]:
        """How the draws of each were made."""
        return [one.method for one in self]

    @property
    def ess(self) -> np.ndarray:
        """Effective sample sizes (B,)."""
        return self._stacked("ess")

    @property
    def khat(self) -> np.ndarray:
        """Tail shapes (B,) of the importance weights of the amortised posteriors."""
        return self._stacked("khat")

    @property
    def log_evidence(self) -> np.ndarray:
        """Log evidences (B,)."""
        return self._stacked("log_evidence")

    @property
    def log_evidence_se(self) -> np.ndarray:
        """Standard errors (B,) of the log evidences."""
        return self._stacked("log_evidence_se")

    @property
    def reliable(self) -> np.ndarray:
        """Whether no reason for doubt was found, (B,) bool."""
        return self._stacked("reliable")

    @property
    def mean(self) -> np.ndarray:
        """Means (B, d)."""
        return self._stacked("mean")

    @property
    def cov(self) -> np.ndarray:
        """Covariances (B, d, d)."""
        return self._stacked("cov")

    @property
    def std(self) -> np.ndarray:
        """Standard deviations (B, d)."""
        return self._stacked("std")

    def sample(self, num: int = 1, random_state: Any = None) -> np.ndarray:
        """Return equally weighted draws (num, B, d)."""
        generator = host_generator(as_random_key(random_state))
        return np.stack([one.sample(num, generator) for one in self], axis=1)

    def __repr__(self) -> str:
        return f"RefinedBatch({len(self)} posteriors, {int(self.reliable.sum())} reliable)"
