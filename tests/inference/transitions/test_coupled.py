"""Coupled chains: each moves by its kernel, they stay together, and nothing is biased."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference import law
from bayeskit.inference.algorithms import lagged_pair
from bayeskit.inference.algorithms.lagged_pair import correction_weight
from bayeskit.inference.transitions.coupled import Coupled, CoupledMetropolis, equal
from bayeskit.validation import Atoms, Level, battery, enumerate_paths
from tests.inference.finite_models import log_table

LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)
MASS = np.array([0.34, 0.85, 0.51])
SHARE = MASS / MASS.sum()
TARGET = bk.Target(log_density=lambda x: log_table(np.log(MASS))[x], has_gradient=False)
LOG_Q = np.log(np.random.default_rng(4).dirichlet(np.ones(3), 3))
PLACES = np.arange(9) // 3, np.arange(9) % 3


def log_proposal(x, y):
    return log_table(LOG_Q)[x, y]


def propose_pair(key, x, y):
    return bi.maximal_categorical(key, log_table(LOG_Q)[x], log_table(LOG_Q)[y])


def without_residual(key, x, y):
    """Planted: where they differ both are drawn afresh, not from what is left of p and q."""
    same_key, common_key, first_key, second_key = bi.random.split(key, 4)
    p, q = log_table(LOG_Q)[x], log_table(LOG_Q)[y]
    overlap = jnp.minimum(jnp.exp(p), jnp.exp(q))
    same = bi.random.accept(same_key, jnp.log(jnp.sum(overlap)))
    shared = bi.random.categorical(common_key, jnp.log(overlap))
    first, second = bi.random.categorical(first_key, p), bi.random.categorical(second_key, q)
    return jnp.where(same, shared, first), jnp.where(same, shared, second)


def independently(key, x, y):
    first, second = bi.random.split(key)
    table = log_table(LOG_Q)
    return bi.random.categorical(first, table[x]), bi.random.categorical(second, table[y])


def metropolis(propose):
    return bi.coupled_metropolis_hastings(propose, log_proposal, TARGET)


COUPLED = metropolis(propose_pair)
SINGLE = bi.metropolis_hastings(
    lambda key, x: bi.random.categorical(key, log_table(LOG_Q)[x]), log_proposal, TARGET
)


def table_of(step, start, num):
    """Exact probabilities (start, result) of ``step(key, start)``, a place on a grid of num."""

    def numbered(key, state):
        return state[0], step(key, state[1])

    starts = np.arange(len(jax.tree.leaves(start)[0]))
    law_of = enumerate_paths(numbered, Atoms((starts, start), np.ones(len(starts))))
    table = np.zeros((len(starts), num))
    np.add.at(table, tuple(np.asarray(s, int) for s in law_of.state), law_of.mass)
    return table


def joint_table(pair):
    """Exact transition probabilities (9, 9) of a pair on three places each."""

    def step(key, values):
        state = pair.init(jax.random.key(0), values)
        first, second = pair.value(pair.step(key, state)[0])
        return 3 * first + second

    return table_of(step, bi.Pair(*PLACES), 9)


@functools.cache
def single_table():
    def step(key, x):
        return SINGLE.step(key, SINGLE.init(None, x))[0].position

    return table_of(step, np.arange(3), 3)


def validate(pair):
    return bk.validate(pair, start=Atoms(np.arange(3), MASS))


def failed(report):
    return [check.name for check in report.tests if not check.passed]


def test_each_marginal_is_the_kernel_and_the_coupling_is_faithful():
    validate(COUPLED).raise_if_failed()
    joint = joint_table(COUPLED).reshape(3, 3, 3, 3)
    np.testing.assert_allclose(
        joint.sum(3), np.repeat(single_table()[:, None], 3, 1), atol=1e-12
    )
    assert COUPLED.law_kind is law.COUPLED
    assert "where they are equal the second copies the first" in COUPLED.explain()
    assert "L3c coupled for each of two π" in COUPLED.explain()


def test_the_coupling_is_maximal():
    def meets(key, pair):
        return (jnp.equal(*propose_pair(key, *pair))).astype(int)

    found = table_of(meets, PLACES, 2)[:, 1]
    q = np.exp(LOG_Q)
    expected = np.minimum(q[PLACES[0]], q[PLACES[1]]).sum(1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_missing_residual_is_caught():
    # From equal states nothing is left over, so that the kernel of each alone is right.
    assert failed(validate(metropolis(without_residual))) == [
        "the first chain moves as it does alone",
        "the second chain moves as the first does",
    ]


class Parting(CoupledMetropolis):
    """Planted: chains that have met move on independently."""

    def kept_together(self, met, moved):
        return moved


def test_a_meeting_that_is_not_faithful_is_caught():
    report = validate(Parting(SINGLE, independently))
    assert failed(report) == ["chains that have met stay together"]
    assert "it is not true that chains that have met stay together" in report.worst
    # Kept together, the same proposals are a coupling.
    validate(metropolis(independently)).raise_if_failed()


def test_combinations():
    both = bi.mixture([COUPLED, metropolis(independently)])
    assert both.law_kind is law.COUPLED
    validate(both).raise_if_failed()


def test_a_function_of_a_pair():
    """Planted: a second chain that waits for the first one."""

    def step(key, pair):
        init_key, step_key = bi.random.split(key)
        state = COUPLED.init(init_key, bi.Pair(*pair))
        return tuple(COUPLED.value(COUPLED.step(step_key, state)[0]))

    start = Atoms(np.arange(3), MASS)
    bk.validate(step, start=start, law="coupled").raise_if_failed()

    def waiting(key, pair):
        first, _ = step(key, pair)
        return first, jnp.where(pair[0] == pair[1], first, pair[1])

    report = bk.validate(waiting, start=start, law="coupled")
    assert failed(report) == ["the second chain moves as the first does"]


# ---------------------------------------------------------------- on the line


SKEWED = battery()["skewed"]
TUNING = bi.Tuning(jnp.asarray(1.5), jnp.zeros(2), jnp.array([0.8, 1.7]))


def validate_marginal(pair, observed):
    def start(key):
        first, second = bi.random.split(key)
        values = bi.Pair(SKEWED.target.sample_exact(first), SKEWED.target.sample_exact(second))
        return pair.init(key, values)

    def step(key, state):
        return pair.step(key, state)[0]

    return bk.validate(step, start=start, observed=observed, level=LEVEL)


def second_position(state):
    return state.second.position


def test_reflected_random_walk():
    """The second chain keeps the target: false-alarm rate 1e-6."""
    pair = bi.coupled_random_walk(SKEWED.target, TUNING)
    validate_marginal(pair, second_position).raise_if_failed()


class WrongSide(CoupledMetropolis):
    """Planted: the mirrored chain takes the noise as it is, although it did not meet."""

    def both(self, key, state, stage):
        moved, info = super().both(key, state, stage)
        return moved._replace(second=moved.first), info


def test_copying_before_meeting_is_caught():
    right = bi.coupled_random_walk(SKEWED.target, TUNING)

    def start(key):
        return right.init(key, bi.Pair(jnp.zeros(2), SKEWED.target.sample_exact(key)))

    wrong = WrongSide(right.part, right.propose_pair)
    report = bk.validate(
        lambda key, state: wrong.step(key, state)[0],
        start=start,
        observed=second_position,
        level=LEVEL,
    )
    assert report.verdict == "fail"


def test_hamiltonian_chains_contract():
    """Common random numbers on a normal target: the distance falls at every step."""
    target = bk.Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    part = bi.transition(bi.HMC(trajectory=1.0, jitter=0.0), target)
    pair = bi.coupled(part)
    values, _ = bi.chain(pair, bi.Pair(jnp.full(3, -2.0), jnp.full(3, 2.0)), 30, key=1)
    apart = np.abs(values.first - values.second).max(1)
    assert apart[-1] < 1e-3
    assert not np.any(np.diff(apart) > 1e-6)
    assert "common random numbers" in pair.explain()
    with pytest.raises(UnenumerableDrawError, match="common random numbers cannot be"):
        joint_table(Coupled(SINGLE))


# Long steps, so that about one in four is rejected.
HAMILTON = bi.coupled(
    bi.transition(
        bi.HMC(trajectory=2.5),
        SKEWED.target,
        tuning=TUNING._replace(step_size=jnp.asarray(1.3)),
    )
)


def test_the_second_hamiltonian_chain_keeps_the_target():
    """From independent exact draws of both: false-alarm rate 1e-6."""
    validate_marginal(HAMILTON, second_position).raise_if_failed()
    assert HAMILTON.law_kind is law.COUPLED


def moved_from(pair, start):
    """A function of a key: where the second chain goes, and where it would go alone."""

    def jointly(key):
        return pair.step(key, pair.init(key, start))[0].second.position

    def alone(key):
        return pair.part.step(key, pair.part.init(key, start.second))[0].position

    return jointly, alone


FIXED = bi.Pair(np.array([-0.4, 1.0]), np.array([1.3, -0.6]))


def test_the_second_hamiltonian_chain_moves_as_it_does_alone():
    """From a fixed pair of different points: false-alarm rate 1e-6."""
    jointly, alone = moved_from(HAMILTON, FIXED)
    bk.validate(jointly, law="same", expected=alone, level=LEVEL).raise_if_failed()


class FirstDecides(Coupled):
    """Planted: the second chain is accepted where the first one is."""

    def both(self, key, state, stage):
        moved, info = super().both(key, state, stage)
        stays = equal(self.part.value(moved.first), self.part.value(state.first))
        second = jax.tree.map(lambda a, b: jnp.where(stays, a, b), state.second, moved.second)
        return moved._replace(second=second), info


def test_one_decision_for_both_hamiltonian_chains_is_caught():
    jointly, alone = moved_from(FirstDecides(HAMILTON.part), FIXED)
    assert bk.validate(jointly, law="same", expected=alone, level=LEVEL).verdict == "fail"


class ForgetsTheMeeting(Coupled):
    """Planted: numbers of its own for the second chain, even after a meeting."""

    def both(self, key, state, stage):
        keys = bi.random.split(key)
        moved = [self.part.step(k, s, stage) for k, s in zip(keys, state, strict=True)]
        return bi.Pair(*(state for state, _ in moved)), moved[0][1]

    def kept_together(self, met, moved):
        return moved


def test_hamiltonian_chains_that_have_met_stay_together():
    """Equal in every bit, mixed with a random walk that lets them meet."""
    walk = bi.coupled_random_walk(SKEWED.target, TUNING)
    far = bi.Pair(jnp.full(2, -2.0), jnp.full(2, 2.0))

    def apart(hamilton):
        values, _ = bi.chain(bi.mixture([hamilton, walk]), far, 300, key=2)
        return np.any(np.asarray(values.first != values.second), axis=1)

    found = apart(HAMILTON)
    meeting = int(np.argmin(found))
    assert found[0]
    assert 0 < meeting < 250
    assert not found[meeting:].any()
    parted = apart(ForgetsTheMeeting(HAMILTON.part))
    assert parted[int(np.argmin(parted)) :].any()


# ---------------------------------------------------------------- unbiased estimates

INITIAL = np.array([0.7, 0.2, 0.1])


def expectation(joint, first, last, lag, weight=correction_weight):
    """The exact mean of the estimate of each indicator, from the table of the pair."""
    single, mean, total = single_table(), INITIAL, np.zeros(3)
    for time in range(last + 1):
        total += mean * (time >= first)
        mean = mean @ single
    # What has not met yet: the first chain after `lag` steps, and the second at its start.
    apart = np.outer(INITIAL @ np.linalg.matrix_power(single, lag), INITIAL)
    times = np.arange(lag, lag + 500)
    for owed in np.asarray(weight(jnp.asarray(times), first, last, lag)):
        np.fill_diagonal(apart, 0.0)
        total += owed * (apart.sum(1) - apart.sum(0))
        apart = (apart.ravel() @ joint).reshape(3, 3)
    return total / (last - first + 1)


def wrong_lag(time, first, last, lag):
    """Planted: differences are counted as if the chain lagged one step more."""
    return correction_weight(time, first, last, lag + 1)


@pytest.mark.parametrize(("first", "last", "lag"), [(0, 0, 1), (2, 5, 1), (1, 6, 3), (0, 4, 7)])
def test_the_estimate_is_exactly_unbiased(first, last, lag):
    joint = joint_table(COUPLED)
    np.testing.assert_allclose(expectation(joint, first, last, lag), SHARE, atol=1e-10)
    # Planted: another lag in the weights; without them, the bias of a finite chain remains.
    if lag > 1 or last > first:
        assert np.abs(expectation(joint, first, last, lag, wrong_lag) - SHARE).max() > 1e-4
    broken = joint_table(metropolis(without_residual))
    assert np.abs(expectation(broken, first, last, lag) - SHARE).max() > 1e-4


def scores():
    """The z of each indicator over 20,000 runs."""
    estimate = bi.unbiased_mcmc(
        COUPLED,
        lambda key: bi.random.categorical(key, log_table(np.log(INITIAL))),
        lambda x: jax.nn.one_hot(x, 3),
        first=1,
        last=4,
        lag=3,
    )
    runs = jax.jit(
        lambda key: bi.random.lanes(lambda k, _: estimate(k), key, jnp.arange(20_000))
    )(jax.random.key(3))
    assert np.all(runs.met)
    values = np.asarray(runs.value, float)
    # One of the three is redundant: their sum is 1.
    return (values.mean(0) - SHARE)[:2] / (values.std(0) / np.sqrt(len(values)))[:2], runs


def test_runs_are_unbiased(monkeypatch):
    """Two z-scores within 5.2, false-alarm rate 4e-7; a wrong lag is far outside."""
    z, runs = scores()
    assert np.all(np.abs(z) < 5.2)
    assert np.all(runs.meeting_time >= 3)
    monkeypatch.setattr(lagged_pair, "correction_weight", wrong_lag)
    assert np.max(np.abs(scores()[0])) > 5.2


def test_runs_that_do_not_meet_are_nan():
    target = bk.Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    far = bi.coupled_random_walk(target)
    estimate = bi.unbiased_mcmc(
        far,
        lambda key: 50.0 * bi.random.normal(key, (2,)),
        jnp.sum,
        first=0,
        last=1,
        max_steps=3,
    )
    assert estimate.law.kind is law.UNBIASED_MEAN
    text = estimate.explain()
    assert "where they are equal the second copies the first" in text
    assert text.endswith(
        "=> L7m unbiased mean for each of two π: the mean of the estimate of h is π(h)"
    )
    # What is no faithful coupling hands on its own law.
    single = bi.unbiased_mcmc(SINGLE, None, jnp.sum, first=0, last=1)
    assert single.law.kind is law.REVERSIBLE
    run = jax.jit(estimate)(jax.random.key(0))
    assert not run.met
    assert np.isnan(run.value)
    with pytest.raises(ValueError, match="0 <= first <= last"):
        bi.unbiased_mcmc(far, None, jnp.sum, first=3, last=2)
