"""Refined posteriors against exact ones; unbiased evidence; what is said of bad proposals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import GaussianMixture
from bayeskit.errors import ConvergenceWarning, NumericalWarning, ParticleCollapseError
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.base import precision_scope
from bayeskit.models.distribution_transformer import mixture_arrays as arrays
from bayeskit.models.distribution_transformer.prior_laws import as_prior_law
from bayeskit.models.distribution_transformer.refine import (
    RefinedBatch,
    Refinement,
    psis,
    refine,
)
from bayeskit.models.distribution_transformer.refine.kernel import FarAndNear, moves_for
from tests.models.distribution_transformer import exact_mixtures

PRIOR = GaussianMixture([0.4, 0.6], [[-2.0, 0.0], [2.0, 1.0]], [np.eye(2), 0.5 * np.eye(2)])
Z = np.array([0.5, 0.2])


def log_likelihood(u, z):
    return jnp.sum(-0.5 * (z - u) ** 2 - 0.5 * math.log(2 * math.pi))


EXACT, LOG_EVIDENCE = exact_mixtures.posterior(PRIOR, Z, np.eye(2), np.eye(2))
# Weights swapped, means moved by a seventh of a standard deviation, variances too small.
ROUGH = GaussianMixture(EXACT.weights[::-1], EXACT.means + 0.1, 0.9 * EXACT.covariances)
# Moved by five standard deviations.
DAMAGED = GaussianMixture(
    EXACT.weights, EXACT.means + 5.0 * np.sqrt(0.5) * np.ones(2), EXACT.covariances
)


def refinement(proposal=ROUGH, z=Z, likelihood=log_likelihood, prior=PRIOR):
    with precision_scope("float64"):
        law = as_prior_law(prior, PRIOR.support)
    return Refinement(proposal.mixture, law, likelihood, z, PRIOR.support)


@pytest.mark.parametrize("method", ["psis", "smc", "mcmc"])
@pytest.mark.parametrize("proposal", [EXACT, ROUGH, DAMAGED], ids=["exact", "rough", "damaged"])
def test_moments_and_evidence_are_exact(proposal, method):
    """Within 5.5 standard errors by the effective sample size: false alarms below 1e-6.

    That of importance sampling from the damaged proposal is small, and said.
    """
    if proposal is DAMAGED and method == "psis":
        with pytest.warns(ConvergenceWarning, match="effective sample size"):
            found = refine(refinement(proposal), method, 4000, 1)
        assert not found.reliable
    else:
        found = refine(refinement(proposal), method, 4000, 1)
        assert found.reliable and found.ess > 400
    errors = EXACT.std / np.sqrt(found.ess)
    assert np.all(np.abs(found.mean - EXACT.mean) < 5.5 * errors)
    # The kurtosis of a mixture is below that of a normal law.
    assert np.all(np.abs(found.std / EXACT.std - 1) < 5.5 / np.sqrt(2 * found.ess))
    assert abs(found.log_evidence - LOG_EVIDENCE) < 5.5 * found.log_evidence_se
    assert found.method == method
    # The proposal itself, taken for the posterior, is caught by the same bounds.
    if proposal is not EXACT and found.reliable:
        assert np.any(np.abs(proposal.mean - EXACT.mean) > 5.5 * errors)


@pytest.mark.parametrize(("proposal", "flagged"), [(EXACT, False), (DAMAGED, True)])
def test_khat_flags_a_damaged_proposal(proposal, flagged):
    """Means moved by five standard deviations; and the ladder then goes on to SMC."""
    found = refine(refinement(proposal), "auto", 4000, 0)
    assert (found.khat > 0.7) == flagged
    assert found.method == ("smc" if flagged else "psis")
    assert found.reliable


# ---------------------------------------------------------------- laws, by the validator


def estimate(share_in_weights):
    """Return a function (key) -> log of the estimate of the evidence, from 20 draws."""
    given = refinement()

    def run(key):
        target, proposal = given.target(), jax.tree.map(jnp.asarray, given.proposal)
        drawn = psis.weighted_draws(key, target, proposal, 20)
        log_weights = drawn.log_weights
        if not share_in_weights:
            components = jax.vmap(target.components)(drawn.positions)
            log_weights = components.sum(-1) - arrays.log_density(proposal, drawn.positions)
        return jax.nn.logsumexp(log_weights) - math.log(20)

    return run


def test_the_evidence_is_unbiased_and_without_the_share_of_the_prior_it_is_not():
    """False-alarm rate 1e-6."""
    report = bk.validate(estimate(True), law="unbiased", expected=LOG_EVIDENCE)
    report.raise_if_failed()
    wrong = bk.validate(estimate(False), law="unbiased", expected=LOG_EVIDENCE)
    assert wrong.verdict == "fail"


class LeftOut(FarAndNear):
    """Jumps to a draw from the proposal without the chance to stay."""

    def step(self, key, state, density, tuning):
        far_key, near_key = bk.inference.random.split(key)
        position = density.target.draw_prior(far_key).astype(state.position.dtype)
        return self.near.step(near_key, self.near.init(position, density), density, tuning)


def test_moves_keep_the_posterior_and_free_jumps_do_not():
    """On the bridge from a rough proposal. False-alarm rate 1e-6."""
    from dataclasses import replace

    exact = EXACT.mixture

    def draw(key):
        return arrays.draw(key, jax.tree.map(jnp.asarray, exact))

    bridge = replace(refinement().bridge(), sample_exact=draw)
    kernel = moves_for(True)
    bk.validate(kernel, bridge, num_steps=1).raise_if_failed()
    assert bk.validate(LeftOut(kernel.near), bridge, num_steps=1).verdict == "fail"


# ---------------------------------------------------------------- manners


@pytest.fixture(scope="module")
def weighted():
    return refine(refinement(), "psis", 4000, 1)


def test_weighted_draws_are_not_handed_out_as_equal_ones(weighted):
    """The mean of all that is handed out unweighted is that of the posterior, not of q.

    Within 5.5 standard errors; the weighted draws without weights are further off.
    """
    errors = EXACT.std / np.sqrt(weighted.ess)
    for draws in (weighted.draws, weighted.sample(2000, 0)):
        assert np.all(np.abs(draws.mean(axis=0) - EXACT.mean) < 5.5 * errors)
    chains = weighted.to_arviz()["posterior"]["x"].values
    np.testing.assert_array_equal(chains.reshape(-1, 2), weighted.draws)
    assert np.any(np.abs(weighted.weighted_draws.mean(0) - EXACT.mean) > 5.5 * errors)
    np.testing.assert_allclose(weighted.weights.sum(), 1.0)
    np.testing.assert_allclose(weighted.weights @ weighted.weighted_draws, weighted.mean)


def test_densities_and_quantiles(weighted):
    x = EXACT.sample(5, 0)
    # Exact but for the evidence.
    gap = weighted.log_prob(x) - EXACT.log_prob(x)
    np.testing.assert_allclose(gap, LOG_EVIDENCE - weighted.log_evidence, atol=1e-10)
    levels = np.array([0.1, 0.5, 0.9])
    found = weighted.quantile(levels)
    for i, marginal in enumerate(map(EXACT.marginal, range(2))):
        density = np.exp(marginal.log_prob(marginal.quantile(levels)))
        errors = np.sqrt(levels * (1 - levels) / weighted.ess) / density
        assert np.all(np.abs(found[:, i] - marginal.quantile(levels)[:, 0]) < 5.5 * errors)
    np.testing.assert_array_equal(weighted.quantile(0.5), found[1])


@pytest.mark.parametrize("method", ["psis", "smc", "mcmc"])
def test_other_data_priors_and_proposals_compile_nothing(method):
    refine(refinement(), method, 4000, 1)
    other = GaussianMixture(PRIOR.weights[::-1], PRIOR.means - 1.0, 2.0 * PRIOR.covariances)
    again, _ = exact_mixtures.posterior(other, Z + 1.0, np.eye(2), np.eye(2))
    with CompileClock() as clock:
        found = refine(refinement(again, Z + 1.0, prior=other), method, 4000, 2)
    assert clock.num_compiled == 0
    assert np.all(np.abs(found.mean - again.mean) < 5.5 * again.std / np.sqrt(found.ess))


def test_the_same_key_gives_the_same_bits(weighted):
    again = refine(refinement(), "psis", 4000, 1)
    np.testing.assert_array_equal(again.draws, weighted.draws)
    assert not np.array_equal(refine(refinement(), "psis", 4000, 2).draws, weighted.draws)


def test_a_batch_is_many_single_ones(weighted):
    batch = RefinedBatch([weighted, weighted])
    assert len(batch) == 2 and batch[1] is weighted
    np.testing.assert_array_equal(batch.log_evidence, [weighted.log_evidence] * 2)
    assert batch.mean.shape == (2, 2) and batch.sample(3, 0).shape == (3, 2, 2)


def impossible(u, z):
    return jnp.full((), -jnp.inf)


def often_nan(u, z):
    return jnp.where(u[0] > 0, jnp.nan, log_likelihood(u, z))


def test_bad_likelihoods_and_arguments():
    with pytest.raises(ParticleCollapseError, match="all 4000 draws have zero density"):
        refine(refinement(likelihood=impossible), "psis", 4000)
    with pytest.warns(NumericalWarning, match="NaN"):
        refine(refinement(likelihood=often_nan), "psis", 4000)
    with pytest.raises(ValueError, match="refine must be one of"):
        refine(refinement(), "pis")
    with pytest.raises(ValueError, match="n_draws must be a whole number >= 100, got 10"):
        refine(refinement(), "psis", 10)
