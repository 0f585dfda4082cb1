"""Filters driven by uniforms: sequential quasi-Monte Carlo and correlated PMMH."""

import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import MissingDensityError
from bayeskit.inference import law, random
from bayeskit.inference.algorithms.correlated_marginal import systematic_uniforms
from bayeskit.inference.algorithms.sqmc import SQMC, points_shifted_by, shifted_points
from bayeskit.inference.algorithms.uniform_filter import filter_from_uniforms
from bayeskit.inference.population import total_log_evidence
from tests.inference.finite_models import (
    assert_caught,
    assert_exact,
    last_state_measure,
    last_state_model,
    log_table,
    random_chain,
)
from tests.inference.linear_gaussian import (
    LinearGaussian,
    LinearGaussianPlane,
    log_errors,
    z_of_evidence,
)

LINEAR = LinearGaussian(num_steps=10, seed=1)


@pytest.mark.parametrize("num", [1, 2, 64])
def test_shifted_points(num):
    points = np.asarray(shifted_points(jax.random.key(3), (200, num, 2)))
    assert (0 < points).all()
    assert (points < 1).all()
    # Sorted by the first coordinate, and in each one point in each of num equal cells.
    assert (np.diff(points[:, :, 0], axis=1) > 0).all()
    cells = np.sort(np.floor(points * num), axis=1)
    np.testing.assert_array_equal(cells, np.broadcast_to(np.arange(num)[:, None], cells.shape))
    # A point alone is uniform: the false-alarm rate of the 2 tests is 1e-7.
    for coordinate in range(2):
        assert stats.kstest(points[:, 0, coordinate] * num % 1, "uniform").pvalue > 5e-8


def test_sqmc_is_unbiased_and_varies_less():
    """|z| < 5.5 over 2000 runs (false alarm 4e-8), and a variance a tenth of plain SMC."""
    whole = bi.sqmc(LINEAR.model(), 64)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    text = whole.explain()
    assert "by Sobol' points, shifted at random" in text
    assert "each point alone is uniform" in text
    # The lines of the filter whose mean it has.
    plain = bi.particle_filter(whole.model, 64, scheme="multinomial", ess_below=None)
    assert all(line in text for line in plain.explain().splitlines())
    errors = log_errors(whole, LINEAR, 2000)
    assert abs(z_of_evidence(errors)) < 5.5
    plain = log_errors(bi.particle_filter(LINEAR.model(), 64), LINEAR, 400)
    # Measured: 13. Each of the two variances has a relative standard error below 0.15.
    assert plain.var() > 3 * errors.var()


class OneUniform(SQMC):
    """Planted: what chooses the ancestor moves the particle as well."""

    def run(self, key, population=None):
        points = shifted_points(key, (10, self.num_particles, 2))
        points = points.at[:, :, 1].set(points[:, :, 0])
        return filter_from_uniforms(self.model, points, self.order), {}


def test_one_uniform_for_two_things_is_caught():
    right = bi.sqmc(LINEAR.model(), 64)
    wrong = OneUniform(right.model, right.num_particles, right.order)
    assert abs(z_of_evidence(log_errors(wrong, LINEAR, 2000))) > 8


def test_wrong_input():
    plain = bi.FeynmanKac(
        initial=lambda key: bi.random.normal(key),
        log_g0=lambda x: 0.0,
        kernel=lambda key, t, x: x,
        log_g=lambda t, before, x: 0.0,
        num_steps=2,
    )
    with pytest.raises(MissingDensityError, match="needs initial_from_uniforms"):
        bi.sqmc(plain, 8)
    with pytest.raises(ValueError, match="must be a power of 2, got 100"):
        bi.sqmc(LINEAR.model(), 100)
    plane = bi.FeynmanKac(
        initial=plain.initial,
        log_g0=lambda x: 0.0,
        kernel=plain.kernel,
        log_g=plain.log_g,
        num_steps=2,
        initial_from_uniforms=lambda u: u,
        kernel_from_uniforms=lambda t, x, u: u,
        uniform_dim=2,
    )
    by_sum = bi.sqmc(plane, 8, order=lambda x: x.sum(axis=1))
    assert bi.run(by_sum, 0).particles.shape == (8, 2)
    too_many = bi.sqmc(plane, 8, order=lambda x: accel.hilbert_order(jnp.tile(x, 9)))
    with pytest.raises(ValueError, match="sort by at most 16 of them"):
        bi.run(too_many, 0)


# ---------------------------------------------------------------- several coordinates

PLANE = LinearGaussianPlane(num_steps=10, seed=2)


def test_sqmc_in_the_plane_is_unbiased_and_varies_less():
    """|z| < 5.5 over 1000 runs (false alarm 4e-8), and less than half the spread of plain SMC.

    Measured: a ratio of 2.2, whose relative standard error is below 0.08.
    """
    errors = log_errors(bi.sqmc(PLANE.model(), 256), PLANE, 1000)
    assert abs(z_of_evidence(errors)) < 5.5
    plain = log_errors(bi.particle_filter(PLANE.model(), 256), PLANE, 300)
    assert plain.std() > 1.4 * errors.std()


# Probabilities in eighths: three binary digits of each uniform tell everything.
START = np.array([[1, 3], [3, 1]]) / 8  # of the corners of the square
LATER = np.array([5, 2]) / 8  # that a coordinate is 1, by the other coordinate before
POTENTIAL = np.array([[[1.0, 3.0], [3.0, 1.0]], [[0.25, 0.5], [1.0, 0.75]]])
DIGITS = 3


def square_model():
    """States on the corners of a square, by two uniforms each."""
    at = lambda t, x: jnp.log(jnp.asarray(POTENTIAL))[t, x[0].astype(int), x[1].astype(int)]
    coordinate = lambda u, p: (u < p).astype(float)

    def initial(u):
        first = coordinate(u[0], START[1].sum())
        second = jnp.where(
            first == 1, START[1, 1] / START[1].sum(), START[0, 1] / START[0].sum()
        )
        return jnp.stack([first, coordinate(u[1], second)])

    def kernel(t, x, u):
        chance = jnp.asarray(LATER)[x.astype(int)]
        return jnp.stack([coordinate(u[0], chance[1]), coordinate(u[1], chance[0])])

    return bi.FeynmanKac(
        initial=lambda key: initial(bi.random.uniform(key, (2,))),
        log_g0=lambda x: at(0, x),
        kernel=lambda key, t, x: kernel(t, x, bi.random.uniform(key, (2,))),
        log_g=lambda t, before, x: at(t, x),
        num_steps=2,
        initial_from_uniforms=initial,
        kernel_from_uniforms=kernel,
        uniform_dim=2,
    )


def square_measure():
    """The mass of each corner at the last time, by addition."""
    mass = np.zeros((2, 2))
    for a, b, c, d in itertools.product(range(2), repeat=4):
        there = LATER[[b, a]]
        step = (there[0] if c else 1 - there[0]) * (there[1] if d else 1 - there[1])
        mass[c, d] += START[a, b] * POTENTIAL[0, a, b] * step * POTENTIAL[1, c, d]
    return mass


def square_law(filter_of_points):
    """The exact mean of the weighted particles, over all shifts by three digits."""
    digits = np.array(list(itertools.product(range(2**DIGITS), repeat=5)), np.uint32)
    shifts = np.zeros((len(digits), 2, 3), np.uint32)
    # The first uniform of time 0 chooses no ancestor, so that its digits change nothing.
    shifts.reshape(-1, 6)[:, 1:] = digits << (32 - DIGITS)

    def one(shift):
        population = filter_of_points(square_model(), points_shifted_by(shift, 2))
        weights = jnp.exp(population.log_weights + total_log_evidence(population))
        corner = (2 * population.particles[:, 0] + population.particles[:, 1]).astype(int)
        return jnp.zeros(4).at[corner].add(weights)

    with jax.enable_x64(True):
        means = quick_jit(jax.vmap(one), optimised=False)(shifts)
        return np.asarray(means).mean(0).reshape(2, 2)


def test_sqmc_of_two_coordinates_exactly():
    """Weights of two particles are quarters, so all 32,768 shifts are all that can happen."""
    np.testing.assert_allclose(square_law(filter_from_uniforms), square_measure(), atol=1e-12)


def test_weights_sorted_without_their_particles_are_caught(monkeypatch):
    module = sys.modules[filter_from_uniforms.__module__]
    names = {name: getattr(accel, name) for name in accel.__all__}
    # The mistake: weights in an order of their own, particles along the curve.
    names["scaled_cdf"] = lambda log_weights, num: accel.scaled_cdf(jnp.sort(log_weights), num)
    monkeypatch.setattr(module, "accel", types.SimpleNamespace(**names))
    assert np.abs(square_law(filter_from_uniforms) - square_measure()).max() > 1e-3


# ---------------------------------------------------------------- any probabilities, exactly

CHAIN = random_chain(num_states=2, num_steps=3, seed=6, guided=False)


def chain_by_uniforms(num_steps):
    """The finite chain, moved by one uniform: a state is where the cumulated row passes it."""
    chain = CHAIN._replace(log_potential=CHAIN.log_potential[:num_steps])
    model = last_state_model(chain)
    state = lambda row, u: (u[0] > jnp.exp(row[..., 0])).astype(jnp.int32)
    model.initial_from_uniforms = lambda u: state(log_table(chain.log_initial), u)
    model.kernel_from_uniforms = lambda t, x, u: state(log_table(chain.log_transition)[x], u)
    return model


class InCells(SQMC):
    """A filter of two particles whose uniforms are drawn from the cells that matter.

    A uniform is only compared: with the cumulated weights, and with rows of the tables. All
    values between two of these numbers give one result, so the midpoint stands for them.
    """

    def run(self, key, population=None):
        points, num_steps = [], self.model.num_steps
        for t, time_key in enumerate(random.split(key, num_steps)):
            weights, tables = jnp.array([0.5]), jnp.exp(CHAIN.log_transition[:, 0])
            if t == 0:
                tables = jnp.exp(CHAIN.log_initial[:1])
            else:
                past = filter_from_uniforms(chain_by_uniforms(t), jnp.stack(points), self.order)
                places = jnp.argsort(self.order(past.particles))
                weights = jnp.cumsum(jnp.exp(past.log_weights[places]))[:-1]
            points.append(self.points(time_key, weights, tables))
        return filter_from_uniforms(self.model, jnp.stack(points), self.order), {}

    def points(self, key, weights, tables):
        """Shifted Sobol' points: shifts differ by where a point or its partner is compared."""
        return self.shifted(*random.split(key), weights, tables)

    def shift(self, key, compared):
        half = jnp.concatenate([compared, (compared + 0.5) % 1.0, jnp.array([0.5])])
        v = random.piecewise_uniform(key, (), lambda: half)
        return jnp.floor(v * 2.0**32).astype(jnp.uint32)

    def shifted(self, first_key, second_key, weights, tables):
        shifts = jnp.stack([self.shift(first_key, weights), self.shift(second_key, tables)])
        return points_shifted_by(shifts[None], 2)[0]


class OneShift(InCells):
    """Planted: one shift for both coordinates."""

    def shifted(self, first_key, second_key, weights, tables):
        shift = self.shift(first_key, jnp.concatenate([weights, tables]))
        return points_shifted_by(jnp.stack([shift, shift])[None], 2)[0]


class ByNormals(InCells):
    """The filter of correlated PMMH: normals, of which one a time chooses all ancestors."""

    def points(self, key, weights, tables):
        ancestor_key, move_key = random.split(key)
        chooses = random.piecewise_uniform(ancestor_key, (), lambda: (2.0 * weights) % 1.0)
        moves = random.piecewise_uniform(
            move_key, (2,), lambda: jnp.broadcast_to(tables, (2, len(tables)))
        )
        return self.of_normals(*map(jax.scipy.special.ndtri, (chooses, moves)))

    def of_normals(self, chooses, moves):
        normals = jnp.stack([jnp.stack([chooses, jnp.zeros(())]), moves], axis=-1)
        return systematic_uniforms(normals[None])[0]


class AnyStart(ByNormals):
    """Planted: ancestors are chosen by an even grid that has no random place."""

    def of_normals(self, chooses, moves):
        return super().of_normals(jnp.zeros(()), moves)


class MovesByTheChoice(ByNormals):
    """Planted: the uniform that chooses ancestors moves the first of them."""

    def of_normals(self, chooses, moves):
        return super().of_normals(chooses, moves.at[0].set(chooses))


def in_cells(kind):
    return kind(chain_by_uniforms(CHAIN.num_steps), 2, lambda x: x.astype(float))


@pytest.mark.parametrize("kind", [InCells, ByNormals])
def test_filters_of_uniforms_exactly(kind):
    """With any weights and tables, no dyadic ones needed: all paths are walked."""
    assert_exact(in_cells(kind), last_state_measure(CHAIN))


@pytest.mark.parametrize("kind", [OneShift, AnyStart, MovesByTheChoice])
def test_wrong_uniforms_are_caught(kind):
    assert_caught(in_cells(kind), last_state_measure(CHAIN))


# ---------------------------------------------------------------- correlated PMMH

PRIOR = bi.Target(
    log_density=lambda x: -0.5 * x**2, sample_prior=lambda key: bi.random.normal(key)
)


def estimate(normals, decay):
    population = filter_from_uniforms(LINEAR.model(decay), systematic_uniforms(normals))
    return total_log_evidence(population)


def test_the_estimate_is_unbiased_and_follows_its_random_numbers():
    """|z| < 5.5 over 2000 runs; numbers that are correlated give estimates that are."""
    keys = jax.random.split(jax.random.key(1), 2000)
    auxiliary = bi.crank_nicolson((10, 32, 2), 0.99)

    def pair(key):
        first, second = jax.random.split(key)
        u = auxiliary.draw(first)
        return jnp.stack([estimate(u, 0.9), estimate(auxiliary.move(second, u), 0.9)])

    errors = np.asarray(quick_jit(jax.vmap(pair), optimised=False)(keys), float)
    errors -= LINEAR.log_evidence()
    # Both ends: the move keeps the law of the random numbers.
    assert abs(z_of_evidence(errors[:, 0])) < 5.5
    assert abs(z_of_evidence(errors[:, 1])) < 5.5
    assert np.corrcoef(errors.T)[0, 1] > 0.6


def test_a_chain():
    step = bi.correlated_pmmh(PRIOR, LINEAR.model, 16, bi.random_walk(0.3), correlation=0.9)
    assert step.law_kind is law.REVERSIBLE
    draws, info = bi.chain(step, jnp.zeros(()), 50, key=2)
    assert 0 < info.accepted.mean() < 1
    normals, _ = draws.sample
    assert normals.shape == (50, 10, 16, 2)
    # The estimate of a state is that of its own parameters and random numbers.
    again = quick_jit(estimate, optimised=False)(normals[-1], draws.parameters[-1])
    assert float(again) == pytest.approx(float(draws.log_estimate[-1]), abs=1e-4)
