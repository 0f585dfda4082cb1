"""A weight of +inf is an error wherever a run can say so, never an evidence of infinity."""

import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import InvalidWeightsError


def infinite_at(time):
    return bi.FeynmanKac(
        initial=lambda key: bi.random.normal(key),
        log_g0=lambda x: jnp.where((time == 0) & (x > 0), jnp.inf, -0.5 * x**2),
        kernel=lambda key, t, x: x + bi.random.normal(key),
        log_g=lambda t, before, x: jnp.where((t == time) & (x > 0), jnp.inf, 0.0),
        num_steps=4,
    )


@pytest.mark.parametrize("time", [0, 2])
def test_a_filter_names_the_time(time):
    with pytest.raises(InvalidWeightsError, match=rf"was \+inf at step {time}, .* return -inf"):
        bi.run(bi.particle_filter(infinite_at(time), 20), key=0)


def test_a_finite_filter_passes():
    assert np.isfinite(bi.run(bi.particle_filter(infinite_at(9), 20), key=0).log_evidence)


def target(log_likelihood):
    return bk.Target(
        log_prior=lambda x: -0.5 * jnp.sum(x**2) - 0.5 * jnp.log(2 * jnp.pi),
        log_likelihood=log_likelihood,
        sample_prior=lambda key: bi.random.normal(key, (1,)),
        name="infinite",
    )


def test_a_tempered_run_is_refused():
    infinite = target(lambda x: jnp.where(x[0] > 2.0, jnp.inf, 0.0))
    with pytest.raises(InvalidWeightsError, match=r"\+inf"):
        bi.run(bi.tempered_smc(infinite, bi.RandomWalk(), 200), key=0)
