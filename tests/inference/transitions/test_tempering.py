"""Products, swaps and parallel tempering on a finite space, enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import LawMismatch
from bayeskit.inference import law
from bayeskit.inference.transitions.exchange import CrossExchange, Exchange
from bayeskit.validation import Atoms, battery
from tests.inference.finite_models import log_table

MODEL = battery()["tempered"]
TARGET = MODEL.target
LADDER = np.array([0.0, 0.35, 1.0])
WALK = bi.DiscreteMetropolis(((0.1, 0.6, 0.3), (0.3, 0.3, 0.4), (0.5, 0.2, 0.3)))
PATH = bi.TemperedPath(TARGET)
RUNGS = bi.rungs(LADDER)


def positions(state):
    return state.states.position


def product_measure():
    """Every state of three rungs, and its mass, by the densities themselves."""
    with jax.enable_x64(True):
        states = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
        components = jax.vmap(jax.vmap(TARGET.components))(states)
        log_mass = components[..., 0].sum(1) + components[..., 1] @ LADDER
        replicas = bi.Replicas(
            bi.PointState(states.astype(np.int32), np.asarray(components)),
            np.tile(np.arange(3, dtype=np.int32), (27, 1)),
        )
        return Atoms(replicas, np.exp(np.asarray(log_mass)))


def validate(step):
    return bk.validate(step, start=product_measure(), observed=positions)


@pytest.mark.parametrize("pairs", ["even", "odd"])
def test_exchange(pairs):
    swaps = bi.exchange(PATH, pairs, RUNGS)
    validate(swaps).raise_if_failed()
    assert "L11 swaps for tempered_λ[rung 0] ⊗ tempered_λ[rung 1]" in swaps.explain()


def test_parallel_tempering():
    tempering = bi.parallel_tempering(TARGET, WALK, LADDER)
    assert tempering.law_kind is law.INVARIANT
    validate(tempering).raise_if_failed()
    text = tempering.explain()
    print(text)
    assert "independently on each of 3 rungs of tempered_λ" in text
    assert "log r = (λ_i - λ_j) (l(x_j) - l(x_i))" in text


class TemperedValues(Exchange):
    """Planted (43): the temperatures are in the values already."""

    def log_ratio(self, log_likelihood, lower):
        tempered = jnp.asarray(self.stages.current) * log_likelihood
        return super().log_ratio(tempered, lower)


class WrongSign(Exchange):
    """Planted (44): the better state is sent to the flatter density."""

    def log_ratio(self, log_likelihood, lower):
        return -super().log_ratio(log_likelihood, lower)


class CacheStays(Exchange):
    """Planted (45): the position is swapped and its cached values are not."""

    def reordered(self, state, order):
        moved = super().reordered(state, order)
        states = moved.states._replace(components=state.states.components)
        return moved._replace(states=states)


@pytest.mark.parametrize("planted", [TemperedValues, WrongSign, CacheStays])
def test_planted_swaps_are_caught(planted):
    swaps = planted(PATH, RUNGS, "odd")
    moves = bi.product(bi.transition(WALK, PATH), RUNGS)
    assert validate(bi.cycle(swaps, moves)).verdict == "fail"


class PathAtOneStage(bi.TemperedPath):
    """Planted: every rung moves at the temperature of the last."""

    def at(self, stage):
        return super().at(stage._replace(current=jnp.ones_like(stage.current)))


def test_moves_at_another_temperature_are_caught():
    path = PathAtOneStage(TARGET)
    moves = bi.product(bi.transition(WALK, path), RUNGS)
    assert validate(moves).verdict == "fail"


def test_product_of_different_transitions_and_one_of_them_alone():
    masses = [np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.4])]
    targets = [
        bk.Target(log_density=lambda x, m=m: log_table(np.log(m))[x], has_gradient=False)
        for m in masses
    ]
    parts = [
        bi.transition(WALK, targets[0]),
        bi.metropolis_hastings(lambda key, x: 1 - x, None, targets[1]),
    ]
    both = bi.product(parts)
    assert both.law_kind is law.REVERSIBLE
    with jax.enable_x64(True):
        x, y = (i.ravel() for i in np.indices((3, 2)))
        states = jax.vmap(lambda x, y: both.init(jax.random.key(0), (x, y)))(x, y)
        start = Atoms(jax.tree.map(np.asarray, states), np.outer(*masses).ravel())
    bk.validate(both, start=start).raise_if_failed()

    bk.validate(bi.slot(parts[1], 1, both), start=start).raise_if_failed()
    to_zero = lambda key, state: both.parts[1].init(key, 0 * state.position)
    wrong = bi.slot(bi.transition(to_zero, targets[1]), 1, both)
    assert bk.validate(wrong, start=start).verdict == "fail"


MASSES = [np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])]
TARGETS = [
    bk.Target(log_density=lambda x, m=m: log_table(np.log(m))[x], has_gradient=False)
    for m in MASSES
]


def validate_three(step):
    moves = bi.product([bi.transition(WALK, target) for target in TARGETS])
    with jax.enable_x64(True):
        places = tuple(i.ravel() for i in np.indices((3, 3, 3)))
        states = jax.vmap(lambda *x: moves.init(jax.random.key(0), x))(*places)
        mass = np.einsum("i,j,k->ijk", *MASSES).ravel()
        start = Atoms(jax.tree.map(np.asarray, states), mass)
    whole = bi.cycle(moves, step)
    return bk.validate(
        whole, start=start, observed=lambda states: tuple(one.position for one in states)
    )


class KeepsValues(CrossExchange):
    """Planted (45): the values of the other target come along."""

    def swap(self, key, pair, targets):
        moved, info = super().swap(key, pair, targets)
        stale = (
            new._replace(components=jnp.where(info.accepted, old.components, new.components))
            for new, old in zip(moved, reversed(pair), strict=True)
        )
        return tuple(stale), info


def test_exchange_between_targets():
    for pairs in ("even", "odd"):
        validate_three(bi.exchange(TARGETS, pairs)).raise_if_failed()
    wrong = bi.cycle(KeepsValues(tuple(TARGETS), "odd"), bi.exchange(TARGETS, "even"))
    assert validate_three(wrong).verdict == "fail"


def test_exchange_between_targets_with_gradients():
    targets = [
        bk.Target(log_density=lambda x, m=m: -0.5 * jnp.sum((x - m) ** 2)) for m in (0.0, 3.0)
    ]
    moves = bi.product([bi.transition(bi.MALA(), target) for target in targets])
    whole = bi.cycle(moves, bi.exchange(targets, "even"))
    start = (jnp.zeros(1), jnp.zeros(1))
    state = whole.init(jax.random.key(0), start)
    step = jax.jit(whole.step)
    for number in range(20):
        state, _ = step(jax.random.key(number), state)
        for one, target in zip(state, targets, strict=True):
            expected = target.density().components_and_gradient(one.position)
            np.testing.assert_allclose(one.gradient, expected[1], atol=1e-5)


def test_gradients_belong_to_their_rung():
    """HMC on a ladder, run as it is exchanged: each rung keeps its normal distribution.

    The likelihood N(2 | x, 0.5²) and the prior N(0, 1) leave rung λ with precision 1 + 4 λ and
    mean 8 λ / precision. Means of 4000 draws within 6 standard errors, variances within 6 times
    their relative error, both for half as many independent draws: below 1e-7 for the six.
    """
    target = bk.Target(
        log_prior=lambda x: -0.5 * jnp.sum(x**2),
        log_likelihood=lambda x: -2.0 * jnp.sum((x - 2.0) ** 2),
        sample_prior=lambda key: bi.random.normal(key, (1,)),
    )
    tempering = bi.parallel_tempering(target, bi.HMC(jitter=0.0), LADDER)
    draws, info = bi.chain(tempering, jnp.zeros((3, 1)), 4000, key=1)
    assert not np.any(info.divergent)
    draws = np.asarray(draws[100:, :, 0], float)
    precision = 1 + 4 * LADDER
    z = (draws.mean(0) - 8 * LADDER / precision) * np.sqrt(precision * len(draws) / 2)
    assert np.all(np.abs(z) < 6)
    assert np.all(np.abs(draws.var(0) * precision - 1) < 6 * np.sqrt(2 / (len(draws) / 2)))


def test_wrong_input():
    with pytest.raises(ValueError, match="increase from 0 or more and end at 1"):
        bi.parallel_tempering(TARGET, WALK, [0.0, 0.5])
    with pytest.raises(ValueError, match="increase from 0 or more and end at 1"):
        bi.rungs([0.0, 0.5, 0.4, 1.0])
    for on, stages in ((TARGET, RUNGS), (PATH, None), ([TARGET], None), ([TARGET, 1], None)):
        with pytest.raises(TypeError, match="needs a TemperedPath with stages="):
            bi.exchange(on, "even", stages)
    with pytest.raises(ValueError, match="pairs must be one of"):
        bi.exchange(PATH, "all", RUNGS)
    with pytest.raises(TypeError, match="needs stages=, the rungs of its path"):
        bi.product(bi.transition(WALK, PATH))
    with pytest.raises(TypeError, match="stages= is for one transition"):
        bi.product([bi.transition(WALK, PATH)], RUNGS)
    moves = bi.product(bi.transition(WALK, PATH), RUNGS)
    with pytest.raises(LawMismatch, match=r"place 1 stands for tempered_λ\[rung 1\]"):
        bi.slot(
            bi.transition(lambda key, state: PATH.initial(key), PATH.measure.at("rung 0")),
            1,
            moves,
        )
    longer = bi.rungs([0.0, 0.2, 0.6, 1.0])
    with pytest.raises(LawMismatch, match="all must share one target"):
        bi.cycle(moves, bi.exchange(PATH, "even", longer))
