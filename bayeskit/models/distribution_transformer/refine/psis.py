"""Importance sampling from an amortised posterior, with Pareto-smoothed weights."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import NumericalWarning, ParticleCollapseError
from bayeskit.inference import random
from bayeskit.inference.blocks.resampling import draw_ancestors
from bayeskit.inference.diagnostics import MIN_ESS
from bayeskit.inference.measure import Target
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture, log_density
from bayeskit.models.distribution_transformer.refine.pareto import (
    pareto_smoothed,
    reliable_khat,
)
from bayeskit.models.distribution_transformer.refine.posterior import RefinedPosterior
from bayeskit.models.distribution_transformer.refine.problem import PRIOR_SHARE, Refinement

__all__ = ["WeightedDraws", "importance_sampling", "stratified_draws", "weighted_draws"]

# Weights of so nearly the same size cannot hide a tail that matters, whatever its shape.
_NEARLY_EQUAL = 0.95
_LAW = (
    "draws from the amortised posterior and a share of the prior, weighted: the mean of the\n"
    "evidence is the evidence; means of functions are consistent"
)


def stratified_draws(
    key: Any, target: Target, proposal: Mixture, prior_share: float, num: int
) -> tuple[jax.Array, jax.Array]:
    """Return draws (num, d) from a mixture and a share of the prior, and which are the latter.

    Components are chosen by systematic resampling, so that their numbers are off their
    expectations by less than one. Each draw alone has the law of the whole mixture.
    """
    choice_key, prior_key, noise_key = random.split(key, 3)
    log_weights = jnp.append(
        math.log1p(-prior_share) + proposal.log_weights, math.log(prior_share)
    )
    component = draw_ancestors(choice_key, log_weights, "systematic", num)
    is_prior = component == len(proposal.means)
    component = jnp.minimum(component, len(proposal.means) - 1)
    noise = random.normal(noise_key, (num, proposal.means.shape[-1]), proposal.means.dtype)
    moved = jnp.einsum("nij,nj->ni", proposal.factors[component], noise)
    # Of the prior as many are drawn as could be needed, rounded up.
    num_prior = min(num, math.ceil(prior_share * num) + 1)
    from_prior = random.lanes(
        lambda k, _: target.draw_prior(k), prior_key, jnp.arange(num_prior)
    )
    place = jnp.clip(jnp.cumsum(is_prior) - 1, 0, num_prior - 1)
    drawn = proposal.means[component] + moved
    drawn = jnp.where(is_prior[:, None], from_prior[place].astype(drawn.dtype), drawn)
    return drawn, is_prior


class WeightedDraws(NamedTuple):
    """Draws (num, d), their log-weights (num,), and what those of the mixture alone would be.

    The latter are -inf for the draws from the prior, which do not belong to them.
    """

    positions: jax.Array
    log_weights: jax.Array
    log_plain_weights: jax.Array


def weighted_draws(
    key: Any, target: Target, proposal: Mixture, num: int, prior_share: float = PRIOR_SHARE
) -> WeightedDraws:
    r"""Return draws and log-weights; the mean weight is an unbiased estimate of the evidence.

    .. math:: \log w_s = \log p(z \mid u_s) + \log p(u_s)
        - \log\left[(1 - a)\, q(u_s) + a\, p(u_s)\right] .
    """
    u, is_prior = stratified_draws(key, target, proposal, prior_share, num)
    components = jax.vmap(target.components)(u)
    log_q = log_density(proposal, u)
    log_proposal = jnp.logaddexp(
        math.log1p(-prior_share) + log_q, math.log(prior_share) + components[:, 0]
    )
    nowhere = components.min(axis=-1) == -jnp.inf
    total = jnp.where(nowhere, 0.0, components.sum(axis=-1))
    return WeightedDraws(
        u,
        jnp.where(nowhere, -jnp.inf, total - log_proposal),
        jnp.where(nowhere | is_prior, -jnp.inf, total - log_q),
    )


@quick_jit(static_argnames="num")
def _program(key: Any, target: Target, proposal: Mixture, *, num: int) -> WeightedDraws:
    return weighted_draws(key, target, proposal, num)


def importance_sampling(refinement: Refinement, num_draws: int, key: Any) -> RefinedPosterior:
    """Return the posterior by Pareto-smoothed importance sampling.

    Raises
    ------
    ParticleCollapseError
        If no draw has a positive density.
    """
    target = refinement.target()
    proposal = jax.tree.map(np.asarray, refinement.proposal)
    found = _program(key, target, proposal, num=num_draws)
    u, log_weights = np.asarray(found.positions), np.asarray(found.log_weights, np.float64)
    unusable = np.isnan(log_weights) | (log_weights == np.inf)
    if unusable.mean() > 0.01:
        warnings.warn(
            f"the log density was NaN or +inf at {unusable.sum()} of {num_draws} draws, which "
            "were given weight zero. Return -inf where the likelihood is zero, and check for "
            "overflow elsewhere",
            NumericalWarning,
            stacklevel=4,
        )
    log_weights = np.where(unusable, -np.inf, log_weights)
    if not np.isfinite(log_weights).any():
        raise ParticleCollapseError(
            f"all {num_draws} draws have zero density: neither the amortised posterior nor the "
            "prior meets the likelihood. Check the log-likelihood at these observations"
        )
    smoothed, defended_khat = pareto_smoothed(log_weights)
    plain = np.asarray(found.log_plain_weights, np.float64)
    plain = plain[np.isfinite(plain)]
    khat = pareto_smoothed(plain)[1] if len(plain) else math.inf
    ess = 1.0 / np.sum(np.exp(2.0 * smoothed))
    ratios = np.exp(log_weights - log_weights.max())
    return RefinedPosterior(
        method="psis",
        positions=u,
        log_weights=smoothed,
        support=refinement.support,
        target=target,
        ess=float(ess),
        khat=khat,
        defended_khat=defended_khat,
        log_evidence=float(logsumexp(log_weights) - math.log(num_draws)),
        # Of independent draws; stratified ones do no worse.
        log_evidence_se=float(ratios.std() / (ratios.mean() * math.sqrt(num_draws))),
        reasons=_reasons(float(ess), defended_khat, num_draws),
        law=_LAW,
        seed=int(random.host_generator(key).integers(2**31)),
    )


def _reasons(ess: float, khat: float, num: int) -> tuple[str, ...]:
    """Judge by both: either alone is misled, by unseen tails or by nearly equal weights."""
    found = []
    least = min(MIN_ESS, 0.5 * num)
    if ess < least:
        found.append(f"effective sample size {ess:.0f} of {num} draws (< {least:.0f})")
    bound = reliable_khat(num)
    if khat > bound and ess < _NEARLY_EQUAL * num:
        found.append(f"k-hat {khat:.2f} (> {bound:.2f}): the weights have a heavy tail")
    return tuple(found)
