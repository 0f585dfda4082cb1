"""Particle Gibbs on every pair of parameter and path; stale conditionals are caught."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.inference import law, random
from bayeskit.inference.transitions.gibbs import Gibbs
from bayeskit.validation import Atoms
from tests.inference import finite_models as fm

# One chain for each value of the parameter.
CHAINS = [fm.random_chain(num_states=2, num_steps=2, seed=seed) for seed in (3, 6)]
LOG_PRIOR = np.log(np.array([0.3, 0.7]))
TABLES = fm.Chain(*map(np.stack, zip(*CHAINS, strict=True)))


def model(theta):
    table = lambda name: fm.log_table(getattr(TABLES, name))[theta]

    def log_g(t, before, x):
        step = table("log_transition") - table("log_proposal")
        return step[before, x] + table("log_potential")[t, x]

    return bi.FeynmanKac(
        initial=lambda key: random.categorical(key, table("log_initial")),
        log_g0=lambda x: table("log_potential")[0, x],
        kernel=lambda key, t, x: random.categorical(key, table("log_proposal")[x]),
        log_g=log_g,
        num_steps=2,
        log_m0=lambda x: table("log_initial")[x],
        log_m=lambda t, before, x: table("log_proposal")[before, x],
    )


def log_prior(theta):
    return fm.log_table(LOG_PRIOR)[theta]


def joint():
    paths = np.array(list(itertools.product(range(2), repeat=2)), np.int32)
    theta = np.repeat(np.arange(2, dtype=np.int32), len(paths))
    mass = [fm.path_measure(c).mass * p for c, p in zip(CHAINS, np.exp(LOG_PRIOR), strict=True)]
    return Atoms({"theta": theta, "x": np.tile(paths, (2, 1))}, np.concatenate(mass))


def draw_theta(state):
    """The conditional of the parameter, by its two values."""
    log_mass = jax.vmap(lambda t: log_prior(t) + model(t).log_density(state["x"]))
    return lambda key: random.categorical(key, log_mass(jnp.arange(2)))


KERNEL = bi.DiscreteMetropolis(((0.2, 0.8), (0.6, 0.4)))


@pytest.mark.parametrize(
    ("parameters", "options"),
    [(draw_theta, {}), (KERNEL, {"ancestor": False}), (draw_theta, {"backward": True})],
    ids=["exact", "kernel", "backward"],
)
def test_law(parameters, options):
    sampler = bi.particle_gibbs(parameters, model, 2, log_prior=log_prior, **options)
    assert sampler.law_kind is law.INVARIANT
    bk.validate(sampler, start=joint()).raise_if_failed()
    assert "x: keeps its conditional given all others as they are now" in sampler.explain()


class StaleGibbs(Gibbs):
    """40: the path moves given the parameter from before the sweep."""

    def step(self, key, state, stage=None):
        moved = dict(state)
        for block_key, (name, block) in zip(random.split(key, 2), self.blocks, strict=True):
            one = Gibbs(self.on, ((name, block),), "cycle")
            moved[name] = one.step(block_key, state, stage)[0][name]
        return moved, None


def test_old_values_are_caught():
    right = bi.particle_gibbs(draw_theta, model, 2, log_prior=log_prior)
    assert bk.validate(StaleGibbs(right.on, right.blocks, "cycle"), start=joint()).verdict == (
        "fail"
    )


def test_forgotten_prior_is_caught():
    flat = bi.particle_gibbs(KERNEL, model, 2, log_prior=lambda theta: 0.0, ancestor=False)
    assert bk.validate(flat, start=joint()).verdict == "fail"


def test_wrong_input():
    with pytest.raises(ValueError, match="num_particles must be at least 2"):
        bk.validate(bi.particle_gibbs(draw_theta, model, 1, log_prior=log_prior), start=joint())
