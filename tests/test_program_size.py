"""Programs are no larger than they were, do not grow with the data, and are built once.

The time that a compiler takes follows the number of instructions it is given, and cannot be
tested itself: machines differ, and so does their load. Programs are lowered here, not compiled.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.accel.bench.clock import count_instructions
from bayeskit.accel.bench.volatility import VolatilityStep
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.measure import Density

KEY = jax.random.key(0)


def size_of(function, *arguments):
    return count_instructions(jax.jit(function).trace(*arguments).lower())


def weights(num):
    return np.zeros(num, np.float32)


# ---------------------------------------------------------------- arrays


def resampler(scheme):
    def resample(num):
        return size_of(lambda key, lw: getattr(accel, scheme)(key, lw), KEY, weights(num))

    resample.__name__ = scheme
    return resample


def normalize(num):
    return size_of(accel.normalize, weights(num))


def temper_step(num):
    step = lambda log_likelihood, lw: accel.temper_step(log_likelihood, lw, 0.1, 0.5)
    return size_of(step, weights(num), weights(num))


def take_particles(num):
    return size_of(accel.take_particles, weights(num), np.zeros(num, np.int32))


def random_normals(num):
    return size_of(lambda key: accel.random_normals(key, (num,)), accel.as_key(0))


def bootstrap_step(num):
    return size_of(VolatilityStep().ours, accel.as_key(0), weights(num), weights(num))


# ---------------------------------------------------------------- algorithms


def target():
    return bk.Target(
        log_prior=lambda x: -0.5 * jnp.sum(x**2),
        log_likelihood=lambda x: -jnp.sum(jnp.cosh(x)),
        sample_prior=lambda key: random.normal(key, (5,)),
    )


def nuts_step(num):
    kernel, density = bi.NoUTurn(), Density(target(), np.ones(2, np.float32))

    def step(key, x):
        tuning = kernel.default_tuning(5, x.dtype)
        return kernel.step(key, kernel.init(x, density), density, tuning)[0]

    return size_of(step, KEY, np.zeros(5, np.float32))


def tempered_smc(num):
    block = bi.tempered_smc(target(), bi.HMC(), num)
    return size_of(lambda key: block.run(key)[0].log_evidence, KEY)


def particle_filter(num, num_steps=100):
    model = bk.FeynmanKac(
        initial=lambda key: random.normal(key),
        log_g0=lambda x: -0.5 * x**2,
        kernel=lambda key, t, x: 0.9 * x + random.normal(key),
        log_g=lambda t, x_previous, x: -0.5 * (x - 0.1 * t) ** 2,
        num_steps=num_steps,
    )
    block = bi.particle_filter(model, num)
    return size_of(lambda key: block.run(key)[0].log_evidence, accel.as_key(0))


# What they were when this was written, on JAX 0.10. A quarter more is allowed: other versions
# of JAX write the same in other words. If a change needs more, see what it does to the seconds
# (python -m bayeskit.accel.bench --kernels programs, benchmarks/compile_times.py), then raise.
INSTRUCTIONS = {
    normalize: 93,
    temper_step: 186,
    take_particles: 10,
    random_normals: 278,
    bootstrap_step: 1032,
    nuts_step: 973,
    tempered_smc: 2098,
    particle_filter: 1669,
    resampler("systematic"): 513,
    resampler("stratified"): 525,
    resampler("multinomial"): 461,
    resampler("residual"): 458,
    resampler("residual_multinomial"): 602,
    resampler("ssp"): 559,
    resampler("killing"): 496,
    resampler("rejection"): 412,
}


def name_of(function):
    return function.__name__


@pytest.mark.parametrize("program", INSTRUCTIONS, ids=name_of)
def test_programs_stay_small_at_any_size(program):
    size = program(1000)
    assert size <= 1.25 * INSTRUCTIONS[program]
    # A large number of particles may choose another method, but unrolls nothing.
    assert program(100_000) <= 1.1 * size


def test_every_scheme_has_a_limit():
    assert {name_of(program) for program in INSTRUCTIONS} >= set(accel.SCHEME_NAMES)


def test_the_number_of_time_steps_costs_no_instruction():
    assert particle_filter(1000, num_steps=10) == particle_filter(1000, num_steps=1000)


def test_a_loop_in_python_is_found():
    """What the limits are there to catch."""

    def unrolled(x):
        for _ in range(100):
            x = jnp.sin(x)
        return x

    looped = lambda x: jax.lax.fori_loop(0, 100, lambda _, x: jnp.sin(x), x)
    assert size_of(unrolled, weights(3)) > 100
    assert size_of(looped, weights(3)) < 20


# ---------------------------------------------------------------- built once


@pytest.mark.parametrize(
    "call",
    [
        lambda seed, lw: accel.normalize(lw),
        lambda seed, lw: accel.systematic(accel.as_key(seed), lw),
        lambda seed, lw: accel.temper_step(lw, lw, 0.1 * seed, 0.5),
        lambda seed, lw: accel.take_particles(lw, jnp.arange(8) // (seed + 1)),
        lambda seed, lw: accel.random_normals(accel.as_key(seed), (8,)),
    ],
    ids=["normalize", "systematic", "temper_step", "take_particles", "random_normals"],
)
def test_a_second_call_with_other_data_builds_nothing(call):
    rng = np.random.default_rng(0)
    call(1, rng.normal(size=8).astype(np.float32))
    with CompileClock() as clock:
        call(2, rng.normal(size=8).astype(np.float32))
    assert clock.num_compiled == 0


def test_another_shape_is_another_program():
    """The count that is zero above would not be, if something were built."""
    accel.normalize(weights(1237))
    with CompileClock() as clock:
        accel.normalize(weights(1238))
    assert clock.num_compiled > 0
