"""The resample-move filter, enumerated; moves on the wrong conditional are caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import LawMismatch, MissingDensityError
from bayeskit.inference import law
from bayeskit.inference.algorithms.resample_move_filter import (
    LastStateMove,
    last_state_move,
    with_previous,
)
from tests.inference.finite_models import (
    assert_caught,
    assert_exact,
    last_state_measure,
    last_state_model,
    log_table,
    path_measure,
    random_chain,
)


def with_density(chain):
    plain = last_state_model(chain)
    return bi.FeynmanKac(
        initial=plain.initial,
        log_g0=lambda x: plain.log_g0(0, x),
        kernel=plain.kernel,
        log_g=plain.log_g,
        num_steps=chain.num_steps,
        log_m=lambda t, before, x: log_table(chain.log_transition)[before, x],
    )


CHAIN = random_chain(2, 3, seed=4, guided=False)
MODEL = with_density(CHAIN)
KERNEL = bi.DiscreteMetropolis(((0.3, 0.7), (0.8, 0.2)))


def last(particles):
    return particles.state


def test_resample_move():
    whole = bi.resample_move_filter(MODEL, KERNEL, 2, scheme="multinomial", ess_below=0.9)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert_exact(whole, last_state_measure(CHAIN), observed=last)
    assert "discrete Metropolis of x_t given x_t-1" in whole.explain()


def test_the_last_two_states_together():
    chain = random_chain(2, 2, seed=4, guided=False)
    whole = bi.resample_move_filter(with_density(chain), KERNEL, 2, num_moves=2, ess_below=None)
    assert_exact(whole, path_measure(chain), observed=lambda p: np.stack([*p], axis=-1))


class ForgetsTheDynamics(LastStateMove):
    """Planted: the move knows the potential and not where the particle came from."""

    def conditional(self, previous, t):
        return bi.Target(log_density=lambda x: self.model.log_g(t, previous, x))


class ForgetsTheObservation(LastStateMove):
    """Planted: the move keeps the prior dynamics and not the observation."""

    def conditional(self, previous, t):
        return bi.Target(log_density=lambda x: self.model.log_m(t, previous, x))


class GivenItself(LastStateMove):
    """Planted: the state before is taken to be the current one."""

    def step(self, key, state, stage=None):
        wrong = state._replace(previous=state.state)
        moved, info = super().step(key, wrong, stage)
        return moved._replace(previous=state.previous), info


class AtTheTimeBefore(LastStateMove):
    """Planted: the potential is that of the time before."""

    def conditional(self, previous, t):
        return super().conditional(previous, t - 1)


@pytest.mark.parametrize(
    "mistake", [ForgetsTheDynamics, ForgetsTheObservation, GivenItself, AtTheTimeBefore]
)
def test_moves_on_the_wrong_conditional_are_caught(mistake):
    pairs = with_previous(MODEL)
    moving = mistake(KERNEL, MODEL, pairs.measure.at("t"))
    start = bi.spawn(pairs.initial, 1) >> bi.weigh(pairs.log_g0)
    step = bi.extend(pairs.kernel, pairs.log_g) >> bi.move(moving, repeats=1)
    assert_caught(start >> bi.scan(step), last_state_measure(CHAIN), observed=last)


def test_a_move_before_its_time_is_refused():
    pairs = with_previous(MODEL)
    moving = bi.move(last_state_move(MODEL, pairs, KERNEL), repeats=1)
    step = moving >> bi.extend(pairs.kernel, pairs.log_g)
    with pytest.raises(LawMismatch, match=r"leaves γ\[t\] invariant.* stands for γ\[t-1\]"):
        bi.spawn(pairs.initial, 2) >> bi.weigh(pairs.log_g0) >> bi.scan(step)


def test_a_model_without_density_is_refused():
    model = last_state_model(CHAIN)
    model.log_m = None
    with pytest.raises(MissingDensityError, match="a move of the last state needs log_m"):
        bi.resample_move_filter(model, KERNEL, 2)


def test_gradients_and_vectors():
    model = bi.FeynmanKac(
        initial=lambda key: bi.random.normal(key, (2,)),
        log_g0=lambda x: -0.5 * jnp.sum(x**2),
        kernel=lambda key, t, x: 0.9 * x + bi.random.normal(key, (2,)),
        log_g=lambda t, before, x: -2.0 * jnp.sum((x - 1.0) ** 2),
        num_steps=4,
        log_m=lambda t, before, x: -0.5 * jnp.sum((x - 0.9 * before) ** 2),
    )
    whole = bi.resample_move_filter(model, bi.MALA(), 50, ess_below=None)
    population, info = bi.run(whole, 0, with_info=True)
    assert population.particles.state.shape == (50, 2)
    assert 0 < info["acceptance"].min() <= info["acceptance"].max() < 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(population))
