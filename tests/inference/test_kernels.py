"""What all kernels share: laws, tempered densities, precision, bad input, moves inside SMC.

The law of each is validated in `tests/validation/test_statistical_kernels.py`, and here for the
kernels with a prior or a finite space of their own.
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import Target, accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import MissingGradientError
from bayeskit.inference import (
    GHMC,
    HMC,
    MALA,
    PCN,
    Barker,
    DelayedRejection,
    Density,
    DiscreteGibbs,
    EllipticalSlice,
    Independent,
    InfinityMALA,
    LocallyInformed,
    MultipleTry,
    NormalPrior,
    PointState,
    RandomWalk,
    Slice,
    TemperedPath,
    UnadjustedLangevin,
    UniformOther,
    law,
    move,
    random,
    tempered_smc,
)
from bayeskit.validation import Atoms, validate
from tests.inference.finite_models import log_table
from tests.inference.skew_normal import PRIOR, TARGET

# What is compiled costs seconds: these stand for the others in every run of the suite.
RUN_ALWAYS = (GHMC(), EllipticalSlice(PRIOR), DiscreteGibbs((2, 3)))


def slow_but_some(kernels):
    return [
        pytest.param(k, id=str(k), marks=() if k in RUN_ALWAYS else pytest.mark.slow)
        for k in kernels
    ]


REAL_KERNELS = (
    RandomWalk(),
    RandomWalk(degrees_of_freedom=3, scales=(0.3, 1.0), blocks=((0,), (1,))),
    Independent(),
    MALA(),
    Barker(),
    HMC(),
    GHMC(),
    Slice(),
    Slice(direction="random"),
    DelayedRejection(),
    MultipleTry(),
    EllipticalSlice(PRIOR),
    PCN(PRIOR),
    InfinityMALA(PRIOR),
    UnadjustedLangevin(),
)
GRID = (2, 3)
DISCRETE_KERNELS = (
    DiscreteGibbs(GRID),
    UniformOther(GRID),
    LocallyInformed(GRID),
    LocallyInformed(GRID, balancing="sqrt"),
)


def some_tuning(kernel, dtype=float):
    tuning = kernel.default_tuning(2, dtype)
    return tuning._replace(factor=jnp.array([[0.9, 0.0], [0.4, 1.5]], tuning.mean.dtype))


# ---------------------------------------------------------------- one step


# The exponent of the likelihood is data.
POWERED = Target(
    log_prior=TARGET.log_prior,
    log_likelihood=lambda x, power: power * TARGET.log_likelihood(x),
    data=(1.0,),
)


@quick_jit(optimised=False, static_argnames="kernel")
def two_steps(keys, x, target, coefficients, *, kernel):
    density, tuning = Density(target, coefficients), some_tuning(kernel)

    def end(key):
        state = kernel.init(x, density)
        for step_key in jax.random.split(key):
            state, _ = kernel.step(step_key, state, density, tuning)
        return state.position

    return jax.vmap(end)(keys)


@pytest.mark.parametrize("kernel", slow_but_some(REAL_KERNELS))
def test_a_tempered_density_is_the_density_of_a_weaker_likelihood(kernel):
    """The coefficient of a component counts as the component itself would."""
    x, keys = jnp.array([0.4, -1.0]), jax.random.split(jax.random.key(3), 200)

    def ends(coefficient, power):
        coefficients = jnp.array([1.0, coefficient])
        return two_steps(keys, x, POWERED.with_data(power), coefficients, kernel=kernel)

    def share_of_equal(one, other):
        return np.mean(np.all(np.isclose(one, other, rtol=1e-4, atol=1e-4), axis=1))

    # Rounding may turn an acceptance round, one in a hundred thousand.
    assert share_of_equal(ends(0.3, 1.0), ends(1.0, 0.3)) >= 0.99
    assert share_of_equal(ends(0.3, 1.0), ends(1.0, 1.0)) < 0.97


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", REAL_KERNELS, ids=str)
def test_a_step_keeps_the_precision(kernel, dtype):
    with jax.enable_x64(True):
        density, tuning = TARGET.density(), some_tuning(kernel, dtype)
        spec = jax.ShapeDtypeStruct((2,), dtype)

        def step(key, x):
            state = kernel.init(x, density)
            return kernel.init(x, density), *kernel.step(key, state, density, tuning)

        before, after, info = jax.eval_shape(step, jax.random.key(0), spec)
    assert jax.tree.leaves(before) == jax.tree.leaves(after)
    assert after.position.dtype == dtype
    assert info.acceptance.shape == info.accepted.shape == info.not_finite.shape == ()


@pytest.mark.parametrize("kernel", REAL_KERNELS, ids=str)
def test_real_kernels_refuse_what_they_cannot_move(kernel):
    with pytest.raises(TypeError, match="moves vectors of floating-point numbers"):
        kernel.init(jnp.array([1, 2]), TARGET.density())
    with pytest.raises(TypeError, match="got shape"):
        kernel.init(jnp.zeros((2, 2)), TARGET.density())
    if kernel.needs_gradient:
        rough = Target(
            log_prior=TARGET.log_prior,
            log_likelihood=TARGET.log_likelihood,
            has_gradient=False,
        )
        with pytest.raises(MissingGradientError, match="has_gradient=False"):
            kernel.init(jnp.zeros(2), rough.density())


@pytest.mark.parametrize("kernel", [EllipticalSlice(PRIOR), PCN(PRIOR), InfinityMALA(PRIOR)])
def test_kernels_with_a_prior_refuse_targets_without_or_of_another_dimension(kernel):
    whole = Target(log_density=lambda x: -jnp.sum(x**2))
    with pytest.raises(TypeError, match="needs the likelihood apart from the prior"):
        kernel.init(jnp.zeros(2), whole.density())
    with pytest.raises(TypeError, match="prior of 2 dimensions, got a position of shape"):
        kernel.init(jnp.zeros(3), TARGET.density())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Slice(direction="up"), "direction must be one of"),
        (lambda: Slice(max_steps_out=0), "max_steps_out must be at least 1"),
        (lambda: EllipticalSlice(PRIOR, max_rounds=0), "max_rounds must be at least 1"),
        (lambda: DelayedRejection(shrink=0.0), r"shrink must be in \(0, 1\]"),
        (lambda: MultipleTry(1), "num_candidates must be at least 2"),
        (lambda: GHMC(persistence=1.0), r"persistence must be in \[0, 1\)"),
        (lambda: GHMC(num_steps=0), "num_steps must be at least 1"),
        (lambda: RandomWalk(degrees_of_freedom=0), "degrees_of_freedom must be"),
        (lambda: RandomWalk(scales=(1.0, -1.0)), "scales must be positive"),
        (lambda: RandomWalk(blocks=((),)), "each block holds at least one"),
        (
            lambda: RandomWalk(blocks=((2,),)).init(jnp.zeros(2), TARGET.density()),
            "blocks name the coordinate 2, but positions have 2",
        ),
        (lambda: DiscreteGibbs(3), r"write \(3,\) \* dim"),
        (lambda: DiscreteGibbs((2, 1)), "at least 2 values to move between"),
        (lambda: LocallyInformed((2,), balancing="max"), "balancing must be one of"),
        (lambda: NormalPrior([[0.0]], scale=[1.0]), "mean must be a vector"),
        (lambda: NormalPrior([0.0], scale=[-1.0]), "1 positive standard deviations"),
        (lambda: NormalPrior([0.0, 0.0], covariance=np.eye(3)), "symmetric of shape"),
        (
            lambda: NormalPrior([0.0, 0.0], covariance=[[1.0, 2.0], [2.0, 1.0]]),
            "least eigenvalue is -1",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_normal_prior_is_its_numbers():
    assert NormalPrior([0.0], scale=[2.0]) == NormalPrior(np.zeros(1), scale=np.full(1, 2.0))
    assert NormalPrior([0.0], scale=[2.0]) != NormalPrior([0.0], covariance=[[4.0]])
    assert len({EllipticalSlice(NormalPrior([0.0], scale=[2.0])) for _ in range(2)}) == 1
    with pytest.raises(TypeError, match="either scale= or covariance="):
        NormalPrior([0.0])


# ---------------------------------------------------------------- inside SMC


def run_smc(kernel, target):
    block = tempered_smc(target, kernel, 512, ess=0.9, correlation=0.1, max_stages=12)
    population, info = quick_jit(block.run, optimised=False)(accel.as_key(1))
    assert float(population.stage.current) == 1.0
    assert int(population.stage.number) > 2
    assert isinstance(population.particles, PointState)
    assert int(np.sum(np.asarray(info["num_not_finite"])[: int(info["num_rounds"])])) == 0
    return population


@pytest.mark.parametrize("kernel", slow_but_some(REAL_KERNELS))
def test_kernel_moves_adaptive_smc(kernel):
    """The evidence is 1/2. Six standard errors: false-alarm rate below 1e-6.

    Over 20 keys the log evidence had a standard deviation of 0.036 at most, the means of 0.035
    and 0.083.
    """
    population = run_smc(kernel, TARGET)
    assert abs(float(population.log_evidence) - np.log(0.5)) < 0.25
    mean = population.expectation(lambda p: p.position)
    np.testing.assert_array_less(np.abs(mean - TARGET_MEAN), [0.25, 0.55])


# With skewness δ = slope / sqrt(1 + |slope|²) the mean of z is sqrt(2 / π) δ.
SLOPE = np.array([2.0, -1.5])
TARGET_MEAN = PRIOR.mean + PRIOR.factor @ (
    np.sqrt(2 / np.pi) * SLOPE / np.sqrt(1 + SLOPE @ SLOPE)
)


# ---------------------------------------------------------------- finite product spaces


STATES = np.array(list(itertools.product(*map(range, GRID))), np.int32)
LOG_PRIOR, LOG_LIKELIHOOD = np.log(
    np.random.default_rng(5).dirichlet(np.ones(6), 2)
) * np.array([[1.0], [2.0]])


def place(x):
    return GRID[1] * x[0] + x[1]


GRID_TARGET = Target(
    log_prior=lambda x: log_table(LOG_PRIOR)[place(x)],
    log_likelihood=lambda x: log_table(LOG_LIKELIHOOD)[place(x)],
    sample_prior=lambda key: jnp.asarray(STATES)[random.categorical(key, log_table(LOG_PRIOR))],
    has_gradient=False,
    name="grid",
)


@pytest.mark.parametrize("kernel", slow_but_some(DISCRETE_KERNELS))
def test_discrete_kernel_moves_adaptive_smc(kernel):
    """Seven standard deviations, 0.041 over 20 keys: false-alarm rate below 1e-6."""
    population = run_smc(kernel, GRID_TARGET)
    truth = np.log(np.sum(np.exp(LOG_PRIOR + LOG_LIKELIHOOD)))
    assert abs(float(population.log_evidence) - truth) < 0.3
    assert population.particles.position.dtype == jnp.int32


GRID_ATOMS = Atoms(STATES, np.exp(LOG_PRIOR + LOG_LIKELIHOOD))


@pytest.mark.parametrize("kernel", DISCRETE_KERNELS, ids=str)
def test_discrete_kernel_is_reversible(kernel):
    validate(kernel, GRID_TARGET, start=GRID_ATOMS).raise_if_failed()


@pytest.mark.parametrize("kernel", DISCRETE_KERNELS, ids=str)
def test_discrete_kernel_stays_where_there_is_mass(kernel):
    """One of the six states has a density of zero, one of NaN, one of infinity."""
    broken = np.array([0.4, -np.inf, 1.0, np.nan, np.inf, 0.2])
    target = Target(log_density=lambda x: log_table(broken)[place(x)], has_gradient=False)
    possible = np.array([0, 2, 5])
    atoms = Atoms(STATES[possible], np.exp(broken[possible]))
    validate(kernel, target, start=atoms).raise_if_failed()


def test_discrete_kernel_finds_its_models():
    report = validate(UniformOther((2, 2, 2)))
    report.raise_if_failed()
    assert {test.model for test in report.tests} == {"binary_field"}
    with pytest.raises(ValueError, match=r"no battery model has the states of Uniform"):
        validate(UniformOther((2, 2)))


class ExcludesAState(UniformOther):
    """21: the last value is never proposed, though it can be left."""

    def _other(self, key, coordinate, here):
        num = jnp.asarray(self.num_states)[coordinate]
        places = jnp.arange(self.most_states)
        return random.categorical(key, jnp.where(places < num - 1, 0.0, -jnp.inf))


class SupportPlusOne(UniformOther):
    """97: one value too many, which indexing takes for the last one."""

    def _other(self, key, coordinate, here):
        num = jnp.asarray(self.num_states)[coordinate]
        places = jnp.arange(self.most_states + 1)
        drawn = random.categorical(key, jnp.where(places <= num, 0.0, -jnp.inf))
        return jnp.where(drawn == num, num - 1, drawn)


class NoWayBack(LocallyInformed):
    """10: the normaliser of the way back is taken to be that of the way there."""

    def _log_weights(self, state, density):
        weights = super()._log_weights(state, density)
        return jax.nn.log_softmax(weights)


@dataclass(frozen=True)
class Unbalanced(LocallyInformed):
    """9: g(t) = t is no balancing function, and the ratio of normalisers is then wrong."""

    def _log_weights(self, state, density):
        barker = super()._log_weights(state, density)
        return jnp.where(barker > -jnp.inf, 2.0 * barker, barker)


class OldNeighbours(DiscreteGibbs):
    """40: the conditional given the values that the other coordinates had before."""

    def step(self, key, state, density, tuning):
        first_key, second_key = random.split(key)
        first, _ = super().step(first_key, state, density, tuning)
        second, info = super().step(second_key, state, density, tuning)
        changed = second.position != state.position
        position = jnp.where(changed, second.position, first.position)
        return PointState(position, density.components(position)), info


@pytest.mark.parametrize(
    "kernel",
    [
        ExcludesAState(GRID),
        SupportPlusOne(GRID),
        NoWayBack(GRID),
        Unbalanced(GRID),
        OldNeighbours(GRID),
    ],
    ids=str,
)
def test_bug_in_discrete_kernel_is_caught(kernel):
    report = validate(kernel, GRID_TARGET, start=GRID_ATOMS)
    print(report.worst)
    assert report.verdict == "fail"


@pytest.mark.parametrize("kernel", DISCRETE_KERNELS, ids=str)
def test_discrete_kernels_refuse_what_they_cannot_move(kernel):
    with pytest.raises(TypeError, match="moves vectors of integers, got a position of dtype"):
        kernel.init(jnp.zeros(2), GRID_TARGET.density())
    with pytest.raises(TypeError, match=r"for 2 coordinates, got a position of shape \(3,\)"):
        kernel.init(jnp.zeros(3, jnp.int32), GRID_TARGET.density())


# ---------------------------------------------------------------- approximate kernels


def test_an_approximate_kernel_makes_the_whole_approximate():
    block = move(UnadjustedLangevin(), TemperedPath(TARGET))
    assert UnadjustedLangevin().law_kind is law.CONSISTENT
    assert "L10" in block.explain()
