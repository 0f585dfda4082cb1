"""Pseudo-marginal steps on their extended target, enumerated; mistakes in them are caught."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.inference import law
from bayeskit.inference.transitions.pseudo_marginal import PseudoMarginal
from bayeskit.validation import exact
from tests.inference.finite_models import TOLERANCE, last_state_model, path_measure, path_model
from tests.inference.parameter_models import PRIOR, PROPOSAL, Chains, extended_target

CHAINS = Chains(num_steps=2)
STEP = bi.pmmh(PRIOR, CHAINS.model, 2, PROPOSAL, scheme="multinomial", ess_below=None)
EXTENDED = extended_target(STEP)


def parameters_and_path(state):
    return state.parameters, state.sample


# ---------------------------------------------------------------- choose


def test_a_chosen_particle_with_the_estimate():
    chain = CHAINS.chains[0]
    whole = bi.particle_filter(path_model(chain), 2, scheme="multinomial", ess_below=0.7)
    estimate = bi.choose(whole)
    bk.validate(estimate, law="unbiased", expected=path_measure(chain)).raise_if_failed()
    assert estimate.law.kind is law.UNBIASED_ESTIMATE
    assert "choose one particle by its weight" in estimate.explain()


def test_a_path_traced_back_through_the_history():
    chain = CHAINS.chains[1]
    filtered = bi.particle_filter(last_state_model(chain), 2, history=True, ess_below=None)
    estimate = bi.choose(filtered)
    expected = path_measure(chain)
    bk.validate(estimate, law="unbiased", expected=expected).raise_if_failed()


def test_choose_needs_a_closed_block():
    with pytest.raises(TypeError, match="waits for a population"):
        bi.choose(bi.resample())
    with pytest.raises(TypeError, match="needs a block"):
        bi.choose(lambda key: 0.0)


# ---------------------------------------------------------------- the law


def test_particle_marginal_metropolis():
    assert STEP.law_kind is law.REVERSIBLE
    bk.validate(STEP, start=EXTENDED).raise_if_failed()
    assert "L7 unbiased estimate for γ[T]" in STEP.explain()


def test_parameters_and_path_have_the_posterior():
    seen = parameters_and_path(EXTENDED.state)
    assert exact.discrepancy(seen, EXTENDED.mass, CHAINS.paths) < TOLERANCE


def importance_sampling(theta):
    chain = CHAINS.model(theta)
    return bi.choose(bi.spawn(chain.initial, 2) >> bi.weigh(chain.log_g0))


def test_importance_sampling_as_the_estimator():
    """Pseudo-marginal with importance sampling of a hidden state."""
    step = bi.pseudo_marginal(PROPOSAL, PRIOR, importance_sampling)
    bk.validate(step, start=extended_target(step)).raise_if_failed()
    # Two steps that share an estimator share what they leave invariant.
    other = dataclasses.replace(PROPOSAL, name="other")
    both = bi.palindrome(step, bi.pseudo_marginal(other, PRIOR, importance_sampling))
    assert both.law_kind is law.REVERSIBLE


def test_an_adaptive_estimate_makes_the_step_consistent():
    def estimator(theta):
        chain = CHAINS.model(theta)
        start = bi.spawn(chain.initial, 2) >> bi.weigh(chain.log_g0)
        shift = bi.transition(lambda key, x: x, chain.measure.at("0"))
        often = bi.when(lambda population: population.log_evidence > -1, bi.move(shift))
        return bi.choose(start >> often)

    assert bi.pseudo_marginal(PROPOSAL, PRIOR, estimator).law_kind is law.CONSISTENT


# ---------------------------------------------------------------- planted bugs


class Reestimating(PseudoMarginal):
    """Planted: the estimate of the current parameters is computed anew at each step."""

    def step(self, key, state, stage=None):
        step_key, again_key = bi.random.split(key)
        state = self.state_at(again_key, state.parameters, stage)
        return super().step(step_key, state, stage)


class OldPath(PseudoMarginal):
    """Planted: new parameters are left with the path of the old ones."""

    def step(self, key, state, stage=None):
        moved, info = super().step(key, state, stage)
        return moved._replace(sample=state.sample), info


class LostEstimate(PseudoMarginal):
    """Planted: the old estimate stays when the parameters move."""

    def step(self, key, state, stage=None):
        moved, info = super().step(key, state, stage)
        return moved._replace(log_estimate=state.log_estimate), info


@pytest.mark.parametrize(
    ("mistake", "observed"),
    [
        (Reestimating, parameters_and_path),
        (OldPath, parameters_and_path),
        (LostEstimate, None),
    ],
)
def test_planted(mistake, observed):
    right = bi.pseudo_marginal(PROPOSAL, PRIOR, importance_sampling)
    wrong = mistake(right.proposal, right.prior, right.estimator, right.on)
    report = bk.validate(wrong, start=extended_target(right), observed=observed)
    assert report.verdict == "fail"


def test_a_proposal_without_its_density_is_caught():
    careless = bi.Proposal(PROPOSAL.draw)
    wrong = bi.pmmh(PRIOR, CHAINS.model, 2, careless, scheme="multinomial", ess_below=None)
    assert bk.validate(wrong, start=EXTENDED).verdict == "fail"


# ---------------------------------------------------------------- a continuous model


def linear_gaussian(theta):
    """x_t = θ x_{t-1} + noise, observed with noise."""
    y = jnp.asarray([0.3, -0.8, 1.1])
    return bi.FeynmanKac(
        initial=lambda key: bi.random.normal(key),
        log_g0=lambda x: -0.5 * (y[0] - x) ** 2,
        kernel=lambda key, t, x: theta[0] * x + bi.random.normal(key),
        log_g=lambda t, before, x: -0.5 * (y[t] - x) ** 2,
        num_steps=3,
    )


def test_a_chain():
    prior = bi.Target(
        log_density=lambda x: -0.5 * jnp.sum(x**2),
        sample_prior=lambda key: bi.random.normal(key, (1,)),
    )
    step = bi.pmmh(prior, linear_gaussian, 20, bi.random_walk(0.8))
    draws, info = bi.chain(step, jnp.zeros(1), 30, key=3)
    assert draws.parameters.shape == (30, 1)
    assert draws.sample.shape == (30, 3)
    assert 0 < info.accepted.mean() < 1
    # Nothing of a state changes on its own.
    stays = ~np.asarray(info.accepted[1:])
    for leaf in jax.tree.leaves(draws):
        np.testing.assert_array_equal(leaf[1:][stays], leaf[:-1][stays])
    # A chain goes on from a state with the estimate that it has.
    last = jax.tree.map(lambda x: x[-1], draws)
    assert step.init(None, last) is last


def test_random_walk_on_structured_positions():
    proposal = bi.random_walk(np.array([[1.0, 0.0], [2.0, 1.0]]))
    start = {"a": jnp.zeros(()), "b": jnp.ones(1)}
    new = proposal.draw(jax.random.key(0), start)
    assert jax.tree.map(jnp.shape, new) == {"a": (), "b": (1,)}
    assert float(proposal.log_ratio(start, new)) == 0.0


def test_wrong_input():
    with pytest.raises(TypeError, match=r"proposal must be a Proposal, .* got RandomWalk"):
        bi.pmmh(PRIOR, CHAINS.model, 2, bi.RandomWalk())
    with pytest.raises(TypeError, match=r"prior must be a Target.*, got function"):
        bi.pmmh(lambda x: 0.0, CHAINS.model, 2, PROPOSAL)
    with pytest.raises(TypeError, match="estimator must be a function of parameters"):
        bi.pseudo_marginal(PROPOSAL, PRIOR, 1.0)
    with pytest.raises(ValueError, match=r"scale must be finite.*got shape \(1, 1, 1\)"):
        bi.random_walk(np.ones((1, 1, 1)))


def test_a_prior_that_forbids_and_an_estimate_that_fails():
    """Neither a density of zero nor an estimate of NaN or infinity is accepted."""
    for bad in (-jnp.inf, jnp.nan, jnp.inf):
        step = bi.pseudo_marginal(
            bi.Proposal(lambda key, x: x + 1.0), bi.Target(log_density=lambda x: 0.0 * x),
            lambda x, bad=bad: lambda key: (jnp.where(x > 0, bad, 0.0), x),
        )  # fmt: skip
        start = bi.MarginalState(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
        moved, info = step.step(jax.random.key(0), start)
        assert float(moved.parameters) == 0.0
        assert bool(info.not_finite) == (not bad == -jnp.inf)
