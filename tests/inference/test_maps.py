"""Bijections and involutions as plain objects, and what they are for."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bayeskit.inference import Target, random
from bayeskit.inference.maps import Bijector, Involution
from bayeskit.validation import Level, validate

LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)
POSITIVE = Bijector(jnp.exp, jnp.log, jnp.sum, lambda x: jnp.all(x > 0), "exp")


def test_maps_are_plain_values():
    """Equal maps are equal settings, so that compiled programs are shared."""
    assert Bijector(jnp.exp, jnp.log, jnp.sum) == Bijector(jnp.exp, jnp.log, jnp.sum)
    assert hash(Involution(jnp.negative)) == hash(Involution(jnp.negative))
    assert POSITIVE.name == "exp"
    assert Involution(jnp.negative).log_abs_det is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        POSITIVE.name = "log"


def in_new_coordinates(log_density, bijector):
    return lambda u: log_density(bijector.forward(u)) + bijector.log_det(u)


@pytest.mark.parametrize(
    ("log_det", "verdict"), [(jnp.sum, "pass"), (lambda u: 0.0 * jnp.sum(u), "fail")]
)
def test_change_of_variables(log_det, verdict):
    """Two exponential variables by their logarithms: the integral stays 1."""
    bijector = dataclasses.replace(POSITIVE, log_det=log_det)

    def sample(key):
        return jnp.log(-jnp.log1p(-random.uniform(key, (2,))))

    target = Target(
        log_density=in_new_coordinates(lambda x: -jnp.sum(x), bijector), sample_exact=sample
    )
    assert validate(target, expected=0.0, level=LEVEL).verdict == verdict
    assert validate(bijector, start=lambda key: random.normal(key, (2,))).verdict == verdict


def test_maps_run_under_transformations():
    u = jnp.array([[0.0, 1.0], [2.0, -1.0]])
    x = jax.jit(jax.vmap(POSITIVE.forward))(u)
    assert bool(jnp.all(jax.vmap(POSITIVE.support)(x)))
    assert jnp.allclose(jax.vmap(POSITIVE.inverse)(x), u, atol=1e-6)
