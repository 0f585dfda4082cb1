"""Both integrators of HMC: exact identities, their law, and bugs that both find."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.inference import HMC, Target
from bayeskit.inference.kernels.base import LowRankFactor, Tuning
from bayeskit.validation import Level, battery, validate

SKEWED = battery()["skewed"]
FACTOR = np.array([[0.9, 0.0], [0.4, 1.5]])
MEAN = np.array([0.3, -0.2])
QUICK = Level(num_stages=3, growth=4, first=20_000, num_frequencies=16)
LOW_RANK = LowRankFactor(np.array([0.9, 1.4]), np.array([[0.6], [0.8]]), np.array([1.7]))


def tuning(step_size=0.35, phase=0.8, factor=FACTOR, mean=MEAN):
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64), Tuning(step_size, mean, factor, phase)
    )


def flow(kernel, density, tuned):
    """Return (x, p) -> (x', -p'), as a function of one vector."""

    def one(both):
        x, p = jnp.split(both, 2)
        end = kernel.integrate(kernel.init(x, density), p, density, tuned)
        return jnp.concatenate([end.place, -end.momentum])

    return one


def volume_and_return(kernel, factor=FACTOR):
    """Return |det D flow| and how far two applications end from the start, at some points."""
    with jax.enable_x64(True):
        tuned = tuning(factor=factor)
        one = flow(kernel, SKEWED.target.density(), tuned)
        points = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4)) * 0.7)
        returned = jax.jit(jax.vmap(lambda both: one(one(both))))(points)
        # Reverse-mode cannot pass a loop of unknown length, forward mode can.
        jacobians = jax.jit(jax.vmap(jax.jacfwd(one)))(points)
        volumes = np.abs(np.linalg.det(np.asarray(jacobians)))
        return volumes, np.abs(np.asarray(returned - points)).max()


@pytest.mark.parametrize("factor", [FACTOR, LOW_RANK], ids=["dense", "low rank"])
@pytest.mark.parametrize("integrator", ["leapfrog", "rotation"])
def test_reversible_and_of_unit_volume(integrator, factor):
    volumes, distance = volume_and_return(HMC(integrator=integrator), factor)
    np.testing.assert_allclose(volumes, 1.0, atol=1e-10)
    assert distance < 1e-10


NORMAL = Target(
    log_density=lambda x: -0.5 * jnp.sum(jnp.linalg.solve(jnp.asarray(FACTOR), x - MEAN) ** 2)
)


def normal_transitions(kernel, step_size, phase=0.5):
    with jax.enable_x64(True):
        density, tuned = NORMAL.density(), tuning(step_size, phase)
        noise = jnp.asarray(np.random.default_rng(1).normal(size=(50, 2, 2)))

        def one(x, p):
            state = kernel.init(x, density)
            after, info = kernel.transition(p, lambda r: r > -1e-9, state, density, tuned)
            return after.position, info.acceptance

        after, acceptance = jax.jit(jax.vmap(one))(3.0 * noise[:, 0], noise[:, 1])
        return np.asarray(after), np.asarray(acceptance), np.asarray(noise[:, 1])


def assert_exact_on_normal(kernel):
    """Any step size, any length: no energy error; a quarter turn forgets the start."""
    for step_size in (0.2, 0.9, 10.0):
        _, acceptance, _ = normal_transitions(kernel, step_size, phase=0.9)
        np.testing.assert_allclose(acceptance, 1.0, atol=1e-10)
    after, acceptance, momentum = normal_transitions(kernel, 10.0)
    np.testing.assert_allclose(acceptance, 1.0, atol=1e-10)
    np.testing.assert_allclose(after, MEAN + momentum @ FACTOR.T, atol=1e-10)


def test_rotation_is_exact_on_a_normal_and_draws_independently():
    kernel = HMC(integrator="rotation", jitter=0.0)
    assert_exact_on_normal(kernel)
    with jax.enable_x64(True):
        num, step_size = kernel.num_steps(tuning(10.0, 0.5))
        assert num == 1
        assert abs(float(step_size) - math.pi / 2) < 1e-12


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.99])
def test_steps_fill_the_trajectory(phase):
    kernel = HMC()
    with jax.enable_x64(True):
        for step_size in (0.01, 0.4, 1.0, 7.0):
            num, h = kernel.num_steps(tuning(step_size, phase))
            length = math.pi / 2 * (1 + 0.3 * (2 * phase - 1))
            assert num == np.clip(math.ceil(length / step_size), 1, 64)
            assert h <= step_size
            assert num == 64 or abs(num * h - length) < 1e-12
        assert kernel.num_steps(tuning(0.0)) == (1, 0.0)


def check(kernel, phase=0.9):
    with jax.enable_x64(True):
        tuned = tuning(0.8, phase)
    return validate(kernel, SKEWED, level=QUICK, key=7, tuning=tuned)


@pytest.mark.parametrize("phase", [0.1, 0.9])
def test_rotation_leaves_the_target_invariant(phase):
    """Wrong mean and metric, two lengths of the jittered trajectory. False alarms 1e-6."""
    check(HMC(integrator="rotation"), phase).raise_if_failed()


def test_leapfrog_leaves_the_target_invariant_with_that_metric():
    """False alarms 1e-6."""
    check(HMC()).raise_if_failed()


# ---------------------------------------------------------------- planted bugs


class SwapsSineAndCosine(HMC):
    """The position turns by another angle than the momentum."""

    def drift(self, place, momentum, h, tuning):
        _, turned = super().drift(place, momentum, h, tuning)
        return place * jnp.sin(h) + momentum * jnp.cos(h), turned


class KicksByAllOfTheGradient(HMC):
    """The rotation kicks by the gradient of U, not by what z leaves of it."""

    def kick(self, now, h):
        return now.momentum + 0.5 * h * now.force


class StepsByTheDirection(HMC):
    """The step size differs on the way back."""

    def integrate(self, state, momentum, density, tuning):
        factor = jnp.where(momentum[0] > 0, 1.3, 1.0)
        longer = tuning._replace(step_size=factor * tuning.step_size)
        return super().integrate(state, momentum, density, longer)


class JitterByTheState(HMC):
    """The length of the trajectory depends on where it starts."""

    def integrate(self, state, momentum, density, tuning):
        phase = jnp.where(state.position[0] > 0.5, 0.0, 1.0)
        return super().integrate(state, momentum, density, tuning._replace(phase=phase))


class KeepsTheGradientOfTheProposal(HMC):
    """A rejected chain goes on with the gradient of the proposal."""

    def transition(self, momentum, decide, state, density, tuning):
        after, info = super().transition(momentum, decide, state, density, tuning)
        end = self.integrate(state, momentum, density, tuning)
        return after._replace(gradient=end.gradient), info


@pytest.mark.parametrize(
    "bug",
    [
        SwapsSineAndCosine(integrator="rotation"),
        StepsByTheDirection(),
        JitterByTheState(),
        KeepsTheGradientOfTheProposal(),
    ],
    ids=lambda bug: type(bug).__name__,
)
def test_bugs_are_caught_by_the_law(bug):
    assert check(bug).verdict == "fail"


@pytest.mark.parametrize(
    "bug",
    [SwapsSineAndCosine(integrator="rotation"), StepsByTheDirection()],
    ids=lambda bug: type(bug).__name__,
)
def test_bugs_are_caught_by_the_identities(bug):
    volumes, distance = volume_and_return(bug)
    assert max(np.abs(volumes - 1).max(), distance) > 1e-3


def test_a_kick_by_all_of_the_gradient_is_caught_where_the_rotation_is_exact():
    """It keeps volume and reverses, so its law is right; it only wastes its steps."""
    with pytest.raises(AssertionError):
        assert_exact_on_normal(KicksByAllOfTheGradient(integrator="rotation", jitter=0.0))


def test_unknown_integrator():
    with pytest.raises(ValueError, match="integrator must be one of"):
        HMC(integrator="euler")
