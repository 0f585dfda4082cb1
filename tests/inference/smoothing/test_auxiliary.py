"""The auxiliary particle filter, enumerated; a weight that is not given back is caught."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.inference import random
from bayeskit.inference.blocks import Resample
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
MODEL = fm.last_state_model(CHAIN)
ETA = np.random.default_rng(2).normal(size=(3, 2))


def log_eta(t, x):
    return fm.log_table(ETA)[t, x]


@pytest.mark.parametrize(
    ("scheme", "ess_below"), [("multinomial", None), ("systematic", None), ("systematic", 0.8)]
)
def test_law(scheme, ess_below):
    block = bi.auxiliary_particle_filter(
        MODEL, 2, log_eta, scheme=scheme, ess_below=ess_below, history=True
    )
    assert block.law.kind.id == "L2"
    fm.assert_exact(block, fm.last_state_measure(CHAIN))
    paths = block >> bi.backward_sampling(MODEL, 1)
    fm.assert_exact(paths, fm.path_measure(CHAIN))


@dataclass(frozen=True, eq=False, repr=False)
class NotDivided(Resample):
    """69: copies weigh the same, whatever they were chosen by."""

    def run(self, key, population=None):
        log_rates = self.log_rates(population)
        return Resample("multinomial").run(key, population._replace(log_weights=log_rates))


@dataclass(frozen=True, eq=False, repr=False)
class DividedBySlot(Resample):
    """69: each copy is divided by the rate of its slot, not of its ancestor."""

    def run(self, key, population=None):
        log_rates = self.log_rates(population)
        chosen = random.categorical(key, log_rates, population.num_particles)
        equal = jnp.full_like(log_rates, -jnp.log(population.num_particles))
        copies = population._replace(
            particles=accel.take_particles(population.particles, chosen), log_weights=equal
        )
        return bi.reweigh(copies, population.log_weights - log_rates), {}


@pytest.mark.parametrize("wrong", [NotDivided, DividedBySlot])
def test_wrong_weights_are_caught(wrong):
    step = wrong("multinomial", rate=log_eta) >> bi.extend(MODEL.kernel, MODEL.log_g)
    block = bi.spawn(MODEL.initial, 2) >> bi.weigh(MODEL.log_g0) >> bi.scan(step)
    fm.assert_caught(block, fm.last_state_measure(CHAIN))


def test_full_adaptation_leaves_weights_equal():
    """With the optimal proposal and its predictive likelihood nothing is left to weigh."""
    joint = np.exp(CHAIN.log_transition[None] + CHAIN.log_potential[:, None])
    eta = joint.sum(axis=2)
    optimal = np.log(joint / eta[:, :, None])
    model = bi.guided_model(
        log_initial=lambda x: fm.log_table(CHAIN.log_initial)[x],
        log_transition=lambda t, a, b: fm.log_table(CHAIN.log_transition)[a, b],
        log_likelihood=lambda t, x: fm.log_table(CHAIN.log_potential)[t, x],
        initial_proposal=lambda key: random.categorical(key, fm.log_table(CHAIN.log_initial)),
        log_initial_proposal=lambda x: fm.log_table(CHAIN.log_initial)[x],
        proposal=lambda k, t, a: random.categorical(k, fm.log_table(optimal)[t, a]),
        log_proposal=lambda t, a, b: fm.log_table(optimal)[t, a, b],
        num_steps=3,
    )
    block = bi.auxiliary_particle_filter(
        model, 50, lambda t, x: fm.log_table(np.log(eta))[t, x]
    )
    np.testing.assert_allclose(bi.run(block, 0).log_weights, -np.log(50), atol=1e-5)
