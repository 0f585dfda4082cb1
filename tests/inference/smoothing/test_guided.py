"""Guided filters as models with proposals, and missing observations, enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import ParticleCollapseError
from bayeskit.inference import random
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
FIRST = np.log(np.random.default_rng(1).dirichlet(np.ones(2)))


def guided(**changes):
    parts = {
        "log_initial": lambda x: fm.log_table(CHAIN.log_initial)[x],
        "log_transition": lambda t, a, b: fm.log_table(CHAIN.log_transition)[a, b],
        "log_likelihood": lambda t, x: fm.log_table(CHAIN.log_potential)[t, x],
        "initial_proposal": lambda key: random.categorical(key, fm.log_table(FIRST)),
        "log_initial_proposal": lambda x: fm.log_table(FIRST)[x],
        "proposal": lambda k, t, a: random.categorical(k, fm.log_table(CHAIN.log_proposal)[a]),
        "log_proposal": lambda t, a, b: fm.log_table(CHAIN.log_proposal)[a, b],
    }
    return bi.guided_model(num_steps=3, **{**parts, **changes})


def paths_of(model):
    return bi.particle_filter(model, 2, history=True, ess_below=0.7) >> bi.genealogy(model)


def test_guided_filter():
    model = guided()
    fm.assert_exact(paths_of(model), fm.path_measure(CHAIN))
    with jax.enable_x64(True):
        log_mass = jax.vmap(model.log_density)(jnp.asarray(fm.path_measure(CHAIN).state))
    np.testing.assert_allclose(np.exp(log_mass), fm.path_measure(CHAIN).mass, rtol=1e-12)


RIGHT = guided()


@pytest.mark.parametrize(
    "mistake",
    [
        # 70: no m / q, at t and at 0.
        {"log_transition": lambda t, a, b: fm.log_table(CHAIN.log_proposal)[a, b]},
        {"log_initial": lambda x: fm.log_table(FIRST)[x]},
        # 71: the weight uses the current state in place of its parent.
        {"log_transition": lambda t, a, b: fm.log_table(CHAIN.log_transition)[b, b]},
        # 8: the first observation counts twice.
        {
            "log_initial": lambda x: (
                fm.log_table(CHAIN.log_initial)[x] + fm.log_table(CHAIN.log_potential)[0, x]
            )
        },
    ],
    ids=["no m/q", "no m0/q0", "own state", "y_0 twice"],
)
def test_wrong_weights_are_caught(mistake):
    fm.assert_caught(paths_of(guided(**mistake)), fm.path_measure(CHAIN))


# ---------------------------------------------------------------- missing observations

# Two coordinates a time, one seen or both or none.
SEEN = np.array([[0.3, np.nan], [np.nan, np.nan], [-0.4, 1.2]])
CENTRES = np.array([[0.0, 1.0], [0.5, -1.0]])


def log_terms(x, y):
    return -0.5 * (y - fm.log_table(CENTRES)[x]) ** 2


def with_missing(log_g):
    terms = -0.5 * (SEEN[:, None] - CENTRES) ** 2
    chain = CHAIN._replace(log_potential=np.nansum(terms, axis=2))
    model = guided(log_likelihood=lambda t, x: log_g(x, fm.log_table(SEEN)[t]))
    return paths_of(model), fm.path_measure(chain)


def test_missing_observations_say_nothing():
    fm.assert_exact(*with_missing(bi.ignore_missing(log_terms)))


def test_missing_observations_taken_for_impossible_are_caught():
    """77: NaN as likelihood 0; and a time without any coordinate left out whole."""
    fm.assert_caught(*with_missing(lambda x, y: jnp.sum(log_terms(x, y))))
    whole = lambda x, y: jnp.where(jnp.any(jnp.isnan(y)), 0.0, jnp.sum(log_terms(x, y)))
    fm.assert_caught(*with_missing(whole))


def test_gradient_passes_by_what_is_missing():
    log_g = bi.ignore_missing(lambda x, y: jnp.log(y) - y * x, stand_in=1.0)
    gradient = jax.grad(log_g)(2.0, jnp.array([3.0, jnp.nan]))
    assert gradient == pytest.approx(-3.0)


def test_terms_must_not_be_summed():
    with pytest.raises(ValueError, match=r"one term for each coordinate of y, shape \(2,\)"):
        bi.ignore_missing(lambda x, y: jnp.sum(y - x))(0.0, jnp.zeros(2))


# ---------------------------------------------------------------- all particles lost


LOST = bi.FeynmanKac(
    initial=lambda key: random.normal(key),
    log_g0=lambda x: 0.0 * x,
    kernel=lambda key, t, x: x + random.normal(key),
    log_g=lambda t, before, x: jnp.where(t == 3, -jnp.inf, 0.0 * x),
    num_steps=5,
)


def test_collapse_names_time_and_observation():
    population, info = bi.run(bi.particle_filter(LOST, 10), 0, with_info=True)
    assert population.log_evidence == -np.inf
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(population))
    data = [0, 0, 0, 7.5, 0]
    with pytest.raises(
        ParticleCollapseError, match=r"at time 3 \(observation 7.5\): take more"
    ):
        bi.check_collapse(population, info, data)
    info = {**info, "num_nan_2": jnp.array([0, 0, 10, 0])}
    with pytest.raises(ParticleCollapseError, match="at time 3, 10 of them because"):
        bi.check_collapse(population, info)
    bi.check_collapse(population._replace(log_evidence=-1.0), info)
