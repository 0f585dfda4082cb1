"""Involutive moves: on finite spaces by enumeration, and against the kernels that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.inference import law
from bayeskit.inference.maps import Involution
from bayeskit.validation import Atoms, Level, battery
from tests.inference.finite_models import log_table

# Few replicates: what the planted mistakes change is large.
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)

# ---------------------------------------------------------------- a finite space

MASS = np.array([0.34, 0.85, 0.51, 0.2, 0.6])
UP = np.array([0.7, 0.4, 0.25, 0.6, 0.5])
RING = bk.Target(log_density=lambda x: log_table(np.log(MASS))[x], has_gradient=False)


def draw_direction(key, x):
    return bi.random.accept(key, jnp.log(log_table(UP)[x]))


def log_direction(x, is_up):
    up = log_table(UP)[x]
    return jnp.log(jnp.where(is_up, up, 1 - up))


def walk(z):
    x, is_up = z
    return (x + jnp.where(is_up, 1, -1)) % len(MASS), ~is_up


def walk_on(z):
    """Planted (19): the way back is not noted, so that this is no involution."""
    x, is_up = z
    return (x + jnp.where(is_up, 1, -1)) % len(MASS), is_up


def atoms(transition, mass, states=None):
    with jax.enable_x64(True):
        states = jnp.arange(len(mass)) if states is None else states
        start = jax.vmap(lambda x: transition.init(None, x))(states)
        return Atoms(jax.tree.map(np.asarray, start), mass)


def test_discrete_involution_is_reversible():
    step = bi.involutive(draw_direction, log_direction, walk, RING, name="walk on a ring")
    assert step.law_kind is law.REVERSIBLE
    bk.validate(step, start=atoms(step, MASS)).raise_if_failed()
    assert "draw v ~ ρ(x, ·)" in step.explain()
    assert "L3r reversible for π" in step.explain()


def test_a_map_that_is_no_involution_is_caught():
    step = bi.involutive(draw_direction, log_direction, walk_on, RING)
    assert bk.validate(step, start=atoms(step, MASS)).verdict == "fail"


LOG_Q = np.log(np.random.default_rng(1).dirichlet(np.ones(5), 5))


def propose(key, x):
    return bi.random.categorical(key, log_table(LOG_Q)[x])


def test_metropolis_hastings():
    def log_proposal(x, y):
        return log_table(LOG_Q)[x, y]

    step = bi.metropolis_hastings(propose, log_proposal, RING)
    bk.validate(step, start=atoms(step, MASS)).raise_if_failed()
    # Planted (9, 10): the correction left out, and upside down.
    forgotten = bi.metropolis_hastings(propose, None, RING)
    inverted = bi.metropolis_hastings(propose, lambda x, y: -log_proposal(x, y), RING)
    for wrong in (forgotten, inverted):
        assert bk.validate(wrong, start=atoms(wrong, MASS)).verdict == "fail"


# ---------------------------------------------------------------- Jacobians

MIXED = battery()["mixed"]


def draw_scale(key, x):
    return jnp.exp(0.5 * bi.random.normal(key))


def log_scale(x, v):
    return -0.5 * (jnp.log(v) / 0.5) ** 2 - jnp.log(v)


def scale(z):
    """Scale the number about 0 and change the component, in a state of two kinds."""
    state, v = z
    return {"k": (2 - state["k"]), "x": state["x"] * v}, 1 / v


def position(state):
    return state.position


def validate_scaling(involution):
    step = bi.involutive(draw_scale, log_scale, involution, MIXED.target)

    def start(key):
        return step.init(None, MIXED.sample_exact(key))

    return bk.validate(step, start=start, observed=position, level=LEVEL)


@pytest.mark.parametrize(
    "involution", [scale, Involution(scale, lambda z: -jnp.log(z[1]))], ids=["auto", "declared"]
)
def test_scaling_of_a_mixed_state(involution):
    """False-alarm rate 1e-6, stated by the validator."""
    validate_scaling(involution).raise_if_failed()


def test_a_forgotten_jacobian_is_caught():
    assert validate_scaling(Involution(scale)).verdict == "fail"


# ---------------------------------------------------------------- kernels are involutions

SKEWED = battery()["skewed"].target
FACTOR = np.array([0.8, 1.7])
STEP = 0.6


def draw_noise(key, x):
    return bi.random.normal(key, x.shape, x.dtype)


def draw_first_noise(key, x):
    """The random walk splits its key for heavier tails and blocks, and draws this first."""
    return draw_noise(bi.random.split(key, 4)[0], x)


def log_noise(x, v):
    return -0.5 * jnp.sum(v**2)


def random_walk(z):
    x, noise = z
    return x + STEP * FACTOR * noise, -noise


def drift(x):
    return 0.5 * STEP * FACTOR * jax.grad(SKEWED.density())(x)


def langevin(z):
    x, noise = z
    new = x + STEP * FACTOR * (drift(x) + noise)
    return new, -(noise + drift(x) + drift(new))


def hamiltonian(num, h):
    def phi(z):
        x, momentum = z
        for _ in range(num):
            momentum = momentum + 0.5 * h * FACTOR * jax.grad(SKEWED.density())(x)
            x = x + h * FACTOR * momentum
            momentum = momentum + 0.5 * h * FACTOR * jax.grad(SKEWED.density())(x)
        return x, -momentum

    return phi


@pytest.mark.parametrize(
    "kernel", [bi.RandomWalk(), bi.MALA(), bi.HMC(trajectory=1.5, jitter=0.0)], ids=repr
)
def test_kernels_are_involutive_moves(kernel):
    """Same key, hence the same noise: the same proposal and acceptance, at many points."""
    with jax.enable_x64(True):
        tuning = bi.Tuning(jnp.asarray(STEP), jnp.zeros(2), jnp.asarray(FACTOR, float))
        draw = draw_first_noise if isinstance(kernel, bi.RandomWalk) else draw_noise
        if isinstance(kernel, bi.HMC):
            num, h = kernel.num_steps(tuning)
            phi = hamiltonian(int(num), h)
        else:
            phi = random_walk if isinstance(kernel, bi.RandomWalk) else langevin
        move = bi.involutive(draw, log_noise, phi, SKEWED)
        bound = bi.transition(kernel, SKEWED, tuning=tuning)
        x = jax.random.normal(jax.random.key(0), (200, 2)) * 2
        keys = jax.random.split(jax.random.key(1), 200)

        def both(key, x):
            ours, info = move.step(key, move.init(None, x))
            theirs, expected = bound.step(key, bound.init(None, x))
            return ours.position, info.acceptance, theirs.position, expected.acceptance

        position, acceptance, expected_position, expected = jax.jit(jax.vmap(both))(keys, x)
        np.testing.assert_allclose(acceptance, expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(position, expected_position, atol=1e-10)
        assert 0.2 < np.mean(acceptance < 0.99)


# ---------------------------------------------------------------- what cannot be used


def test_zero_densities_and_nan_are_rejected():
    half = bk.Target(log_density=lambda x: jnp.where(x > 0, jnp.log(x), -jnp.inf))
    nan = bk.Target(log_density=lambda x: jnp.where(x > 0, 0.0, jnp.nan))
    for target, counted in ((half, False), (nan, True)):
        flip = bi.involutive(
            lambda key, x: 0.0, lambda x, v: 0.0, lambda z: (-z[0], z[1]), target
        )
        for start in (1.0, -1.0):
            state, info = flip.step(jax.random.key(0), flip.init(None, jnp.asarray(start)))
            # Neither into the forbidden half nor, with density zero, out of it.
            if start > 0 or not counted:
                assert state.position == start
                assert not info.accepted
            assert bool(info.not_finite) == (counted and start > 0)


def test_wrong_input():
    with pytest.raises(TypeError, match="sample_auxiliary must be a function"):
        bi.involutive(None, log_direction, walk, RING)
    with pytest.raises(TypeError, match="needs a density, as a Target or TemperedPath"):
        bi.involutive(draw_direction, log_direction, walk, RING.measure)
    torn = bi.involutive(draw_direction, log_direction, lambda z: (z[0], z), RING)
    with pytest.raises(ValueError, match="must map the space of"):
        torn.step(jax.random.key(0), torn.init(None, jnp.asarray(0)))
