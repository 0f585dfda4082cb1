import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError

KEY = jax.random.key(3)
LOG_WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)


def particles():
    return {
        "x": jnp.arange(100.0).reshape(50, 2),
        "key": jax.random.split(jax.random.key(0), 50),
    }


@pytest.mark.parametrize("scheme", ["systematic", "multinomial"])
@pytest.mark.parametrize("num", [None, 20])
def test_copies_the_ancestors_of_the_scheme(scheme, num):
    tree = particles()
    copied, ancestors = accel.resample_and_gather(KEY, LOG_WEIGHTS, tree, scheme, num)
    expected = getattr(accel, scheme)(KEY, LOG_WEIGHTS, num)
    for a, b in zip(ancestors, expected, strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(
        jax.tree.leaves(copied),
        jax.tree.leaves(accel.take_particles(tree, expected.index)),
        strict=True,
    ):
        assert bool(jnp.all(a == b))


def test_gives_its_memory_on_request_only():
    tree = particles()
    kept, _ = accel.resample_and_gather(KEY, LOG_WEIGHTS, tree)
    assert not tree["x"].is_deleted()
    given, _ = accel.resample_and_gather(KEY, LOG_WEIGHTS, tree, donate=True)
    assert tree["x"].is_deleted()
    assert np.array_equal(kept["x"], given["x"])


def test_bad_weights_are_refused_before_the_particles_are_gone():
    tree = particles()
    for bad, error in (
        (LOG_WEIGHTS.at[7].set(jnp.nan), InvalidWeightsError),
        (jnp.full(50, -jnp.inf), DegenerateWeightsError),
    ):
        for donate in (False, True):
            with pytest.raises(error):
                accel.resample_and_gather(KEY, bad, tree, donate=donate)
    dropped, _ = accel.resample_and_gather(
        KEY, LOG_WEIGHTS.at[7].set(jnp.nan), tree, nan="drop"
    )
    assert not np.any(np.all(dropped["x"] == tree["x"][7], axis=1))
    assert not tree["x"].is_deleted()


def test_inside_jit_and_vmap():
    x = jnp.arange(50.0)
    run = lambda w, x: accel.resample_and_gather(KEY, w, x, donate=True)[0]
    loop = accel.resample_and_gather(KEY, LOG_WEIGHTS, x)[0]
    assert np.array_equal(jax.jit(run)(LOG_WEIGHTS, x), loop)
    rows = jax.vmap(run, (0, None))(jnp.stack([LOG_WEIGHTS, jnp.zeros(50)]), x)
    assert np.array_equal(rows, [loop, x])
    assert not x.is_deleted()
    # Bad weights: the particles stay, and a flag tells.
    same, ancestors = jax.jit(accel.resample_and_gather)(KEY, LOG_WEIGHTS.at[0].set(jnp.nan), x)
    assert np.array_equal(same, x)
    assert not ancestors.ok


def test_bad_input():
    x = jnp.zeros(50)
    with pytest.raises(
        ValueError, match=r"tree\['x'\] has shape \(49,\), but there are 50 log_w"
    ):
        accel.resample_and_gather(KEY, LOG_WEIGHTS, {"x": x[1:]})
    with pytest.raises(ValueError, match="one row, got shape"):
        accel.resample_and_gather(KEY, jnp.zeros((2, 50)), x)
    with pytest.raises(ValueError, match="unknown scheme 'best': choose one of"):
        accel.resample_and_gather(KEY, LOG_WEIGHTS, x, "best")
    with pytest.raises(ValueError, match="the memory of 50 particles does not fit 49"):
        accel.resample_and_gather(KEY, LOG_WEIGHTS, x, num=49, donate=True)
    with pytest.raises(TypeError, match="integer"):
        accel.resample_and_gather(KEY, LOG_WEIGHTS, x, num=2.5)
    with pytest.raises(ValueError, match=r"'rejection'.* the index of accel.rejection"):
        accel.resample_and_gather(KEY, LOG_WEIGHTS, x, "rejection")


def test_no_array_is_given_away_twice():
    x, log_weights = jnp.arange(50.0), LOG_WEIGHTS + 0
    with pytest.raises(ValueError, match=r"tree\['b'\] is the same array as tree\['a'\]"):
        accel.resample_and_gather(KEY, log_weights, {"a": x, "b": x}, donate=True)
    with pytest.raises(ValueError, match=r"tree\['a'\] is the same array as log_weights"):
        accel.resample_and_gather(KEY, log_weights, {"a": log_weights}, donate=True)
    assert not x.is_deleted()
    accel.resample_and_gather(KEY, log_weights, {"a": x, "b": x})
