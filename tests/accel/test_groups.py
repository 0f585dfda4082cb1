"""Views of groups of particles, and the ring between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel


@pytest.mark.parametrize(
    ("num_groups", "together", "stride"),
    [(1, 1, 1), (8, 1, 1), (8, 2, 1), (8, 2, 4), (8, 4, 2)],
)
def test_pools_hold_the_groups_that_are_asked_for(num_groups, together, stride):
    size = 3
    particles = {"x": np.arange(num_groups * size)[:, None] * np.ones(2, int)}
    pools = accel.pool_groups(particles, num_groups, together, stride)
    assert pools["x"].shape == (num_groups // together, together * size, 2)
    groups = np.asarray(pools["x"][..., 0]) // size
    for row in groups.reshape(-1, together, size):
        assert (row == row[:, :1]).all()
        assert (np.diff(row[:, 0]) == stride).all()
    back = accel.unpool_groups(pools, num_groups, together, stride)
    assert (back["x"] == particles["x"]).all()


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_ring_moves_evenly_spaced_particles_and_loses_none(fraction):
    groups, size = 4, 12
    passed = np.asarray(accel.ring_exchange(jnp.arange(groups * size), groups, fraction))
    assert sorted(passed) == list(range(groups * size))
    moved = passed.reshape(groups, size) // size != np.arange(groups)[:, None]
    assert (moved.sum(1) == np.ceil(fraction * size)).all()
    assert (moved == moved[0]).all()
    places = np.flatnonzero(moved[0])
    if len(places) > 1:
        assert np.ptp(np.diff(places)) <= 1
    assert (passed.reshape(groups, size)[:, places] % size == places).all()


def test_leaves_of_any_kind():
    tree = {
        "key": jax.random.split(jax.random.key(0), 4),
        "flag": jnp.array([True, False, False, True]),
        "matrix": jnp.arange(16).reshape(4, 2, 2),
    }
    ring = accel.ring_exchange(tree, 2, 0.5)
    order = accel.ring_exchange(jnp.arange(4), 2, 0.5)
    expected = accel.take_particles(tree, order)
    data = jax.random.key_data
    assert (data(ring["key"]) == data(expected["key"])).all()
    assert (ring["flag"] == expected["flag"]).all()
    assert (ring["matrix"] == expected["matrix"]).all()
    pools = accel.pool_groups(tree, 2)
    assert pools["key"].shape == (2, 2)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got"):
        accel.ring_exchange(jnp.arange(4), 2, fraction)
