from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel


class State(NamedTuple):
    position: jax.Array
    count: jax.Array


def test_every_kind_of_leaf():
    tree = {
        "state": State(jnp.arange(12.0).reshape(4, 3), np.array([4, 5, 6, 7])),
        "alive": jnp.array([True, False, True, False]),
        "key": jax.random.split(jax.random.key(0), 4),
        "nothing": None,
    }
    ancestors = jnp.array([3, 3, 0, 1, 1])
    taken = accel.take_particles(tree, ancestors)
    assert isinstance(taken["state"], State)
    assert np.array_equal(
        taken["state"].position, np.asarray(tree["state"].position)[ancestors]
    )
    assert taken["state"].count.tolist() == [7, 7, 4, 5, 5]
    assert jnp.issubdtype(taken["state"].count.dtype, jnp.integer)
    assert taken["alive"].tolist() == [False, False, True, False, False]
    assert taken["key"].dtype == tree["key"].dtype
    expected = jax.random.key_data(tree["key"])[ancestors]
    assert np.array_equal(jax.random.key_data(taken["key"]), expected)
    assert taken["nothing"] is None


def test_no_offspring_and_no_leaves():
    assert accel.take_particles(jnp.ones((3, 2)), jnp.zeros(0, int)).shape == (0, 2)
    assert accel.take_particles((), jnp.array([0])) == ()


def test_indices_out_of_range_take_the_nearest():
    """Also below zero, where NumPy would count from the end: as the kernels and torch do."""
    taken = accel.take_particles(jnp.arange(4.0), jnp.array([-1, -4, 0, 3, 4, 99]))
    assert taken.tolist() == [0, 0, 0, 3, 3, 3]


def test_jit_and_vmap_equal_loops():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
    ancestors = jnp.array([[0, 0, 4], [1, 2, 3], [4, 4, 4]])
    loop = jnp.stack([accel.take_particles(a, b) for a, b in zip(x, ancestors, strict=True)])
    assert np.array_equal(jax.jit(jax.vmap(accel.take_particles))(x, ancestors), loop)


def test_gradient_goes_to_the_parents():
    f = lambda x: accel.take_particles(x, jnp.array([2, 2, 0])).sum()
    assert jax.grad(f)(jnp.ones(3)).tolist() == [1, 0, 2]


def test_bad_input():
    tree = {"x": jnp.zeros((4, 2)), "theta": [jnp.zeros(4), jnp.zeros(5)]}
    message = r"tree\['x'\] has 4 particles on its leading axis, but tree\['theta'\]\[0\]"
    with pytest.raises(ValueError, match=message):
        accel.take_particles({"x": tree["x"], "theta": [jnp.zeros(5)]}, jnp.array([0]))
    with pytest.raises(ValueError, match=r"tree\['theta'\]\[1\] has 5 particles"):
        accel.take_particles(tree, jnp.array([0]))
    with pytest.raises(ValueError, match=r"tree\['a'\] is a scalar: every leaf needs"):
        accel.take_particles({"a": 1.0}, jnp.array([0]))
    with pytest.raises(TypeError, match="ancestors must be integers, got dtype float32"):
        accel.take_particles(jnp.zeros(2), jnp.array([0.0]))
    resampled = accel.systematic(jax.random.key(0), jnp.zeros(2))
    with pytest.raises(TypeError, match="got Ancestors: pass its field index"):
        accel.take_particles(jnp.zeros(2), resampled)
    with pytest.raises(ValueError, match=r"one axis, got shape \(1, 1\)"):
        accel.take_particles(jnp.zeros(2), jnp.array([[0]]))
