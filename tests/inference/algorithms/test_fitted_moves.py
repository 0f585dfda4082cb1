"""SMC² with a proposal fitted to its parameters: L10 as it adapts, exact once frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import law
from bayeskit.inference.blocks import FittedProposal, MovePlan
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import StateSpaceTarget
from tests.inference.finite_models import assert_caught, assert_exact, log_table
from tests.inference.parameter_models import PRIOR, Chains

CHAINS = Chains(num_steps=2)
# What a pilot run might have chosen: an independent proposal, far from the posterior.
PLAN = MovePlan(np.array([False, True]), np.log([[0.5, 0.5], [0.15, 0.85]]))


def parameters(particles):
    return particles.parameters


def shares(theta, log_weights):
    """Log of the weight at each value, moved towards equal shares so that none is zero."""
    found = jnp.exp(log_weights) @ jax.nn.one_hot(theta, 2, dtype=log_weights.dtype)
    return jnp.log(0.5 * found + 0.25)


def independent(log_shares):
    return bi.Proposal(
        lambda key, theta: bi.random.categorical(key, log_table(log_shares)),
        lambda theta, new: log_table(log_shares)[new],
    )


def without_ratio(log_shares):
    """Planted (9, 17): an independent proposal without the Hastings correction."""
    return bi.Proposal(independent(log_shares).draw)


def inverted(log_shares):
    """Planted (10): the correction upside down."""
    right = independent(log_shares)
    return bi.Proposal(right.draw, lambda theta, new: -right.log_density(theta, new))


def squared(propose=independent, plan=PLAN, **options):
    options = {"scheme": "multinomial", "ess_below": 0.9} | options
    proposal = FittedProposal(shares, propose)
    return bi.smc2(PRIOR, CHAINS.model, 2, 1, proposal, plan=plan, **options)


def test_frozen_moves_are_exact():
    whole = squared()
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert "as planned by a pilot run" in whole.explain()
    assert_exact(whole, CHAINS.evidence, observed=parameters)


@pytest.mark.parametrize("mistake", [without_ratio, inverted])
def test_a_fitted_proposal_without_its_ratio_is_caught(mistake):
    assert_caught(squared(mistake), CHAINS.evidence, observed=parameters)


@pytest.mark.parametrize("options", [{"move_always": True}, {}], ids=["always", "uneven"])
def test_moves_that_adapt_are_consistent(options):
    """Fitted to what it moves, with the moment chosen by it or not: the exact mode shows it."""
    whole = squared(plan=None, **options)
    assert whole.law.kind is law.CONSISTENT
    report = bk.validate(whole, expected=CHAINS.evidence, observed=parameters)
    assert report.verdict == "inconclusive"
    assert max(check.discrepancy for check in report.tests) > 1e-4


def test_a_run_by_the_plan_of_another_is_exact():
    """As an unbiased run does it: the constants are those that a pilot run wrote down."""
    pilot = quick_jit(squared(plan=None, ess_below=1.0).run, optimised=False)
    infos = [pilot(jax.random.key(seed))[1] for seed in range(20)]
    moved, constants = next(
        (np.asarray(info["applied"]), np.asarray(info["constants"]))
        for info in infos
        if info["applied"].any()
    )
    first = lambda leaf: np.concatenate([np.zeros_like(leaf[:1]), leaf])
    frozen = squared(plan=MovePlan(first(moved), first(constants)))
    assert_exact(frozen, CHAINS.evidence, observed=parameters)


def test_a_condition_on_the_stage_alone_keeps_the_law():
    step = lambda **options: bi.when(lambda _: True, bi.custom(lambda key, x: x), **options)
    assert not step().is_planned and step(by_stage=True).is_planned


# ---------------------------------------------------------------- the engine

DATA = np.array([0.4, np.nan, 1.3, 2.9, 3.3, 1.6, 2.2])
MODEL = bk.StateSpaceModel(
    initial=lambda p: dist.Normal(0.0, 1.0),
    transition=lambda p, x, t: dist.Normal(p["rho"] * x, 1.0),
    observation=lambda p, x, t: dist.Normal(x, 1.0),
    params={"rho": dist.Uniform(-1.0, 1.0)},
)
ENGINE = bk.SMC2(num_parameters=40, num_particles=20, num_moves=1, ess_below=0.8, unbiased=True)


def exact_log_evidence():
    grid = np.linspace(-1, 1, 2001)
    mean, variance, total = np.zeros_like(grid), np.ones_like(grid), np.zeros_like(grid)
    for t, seen in enumerate(DATA):
        if t:
            mean, variance = grid * mean, grid**2 * variance + 1.0
        if not np.isnan(seen):
            spread = variance + 1.0
            total += -0.5 * (np.log(2 * np.pi * spread) + (seen - mean) ** 2 / spread)
            mean, variance = mean + variance / spread * (seen - mean), variance / spread
    return np.log(np.trapezoid(np.exp(total), grid) / 2)


def test_an_unbiased_run():
    """The mean of 16 evidences by Student's t: false alarms below 1e-6."""
    target = StateSpaceTarget.of(MODEL, Rows(DATA))
    runs = [ENGINE.run(target, key=seed) for seed in range(16)]
    ratio = np.exp([run.log_evidence - exact_log_evidence() for run in runs])
    assert any(run.history["moved"].any() for run in runs)
    bound = stats.t.isf(5e-7, 15) * ratio.std(ddof=1) / 4
    assert abs(ratio.mean() - 1) < bound < 1
    assert "L2 properly weighted" in runs[0].law and "constants" not in runs[0].history
    assert ENGINE.algorithm(target).law.kind is law.CONSISTENT
