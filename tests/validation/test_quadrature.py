"""Kernels on the line are integrated: right ones pass, and small mistakes are measured.

There is no chance in these checks, hence no false alarm; the one test that draws states its
rate.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from bayeskit import Target
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference import (
    HMC,
    MALA,
    Independent,
    NoUTurn,
    RandomWalk,
    UnadjustedLangevin,
    random,
)
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.keys import Tape
from bayeskit.inference.measure import PointState
from bayeskit.validation import battery, quadrature, validate
from tests.inference.skew_normal import LINE_TARGET

LINE = battery("line")
# Enough to catch what is large, and fast.
COARSE = ((32_749, 12_345), (65_521, 56_388))


def check(kernel, model="skewed_1d", **options):
    report = validate(kernel, LINE[model], level="quadrature", **options)
    print(report)
    return report


# ---------------------------------------------------------------- the models


@pytest.mark.parametrize("name", sorted(LINE))
def test_model_on_the_line_has_its_density_and_evidence(name):
    """Draws follow the density, whose integral is known. False-alarm rate 1e-6."""
    model = LINE[name]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(3), 2000)
        x = np.asarray(jax.vmap(model.target.sample_exact)(keys))
        grid = np.linspace(0.0 if name == "half_line" else -15.0, 15.0, 20_001)
        log_density = jax.vmap(model.target.density())(jnp.asarray(grid)[:, None])
    cdf = integrate.cumulative_simpson(np.exp(log_density), x=grid, initial=0.0)
    assert cdf[-1] == pytest.approx(np.exp(model.log_evidence), rel=1e-8)
    ks = stats.kstest(x[:, 0], lambda v: np.interp(v, grid, cdf / cdf[-1]))
    assert ks.pvalue > 1e-6
    assert abs(stats.skew(x[:, 0])) > 0.2


def test_models_on_the_line_stay_out_of_the_statistical_battery():
    assert not set(LINE) & set(battery("continuous"))
    assert set(LINE) < set(battery())


# ---------------------------------------------------------------- the points


def _integral(draw, function):
    """Return the mean of a function of a draw by the lattice rule."""
    size, generator = COARSE[1]
    powers = [pow(generator, j, size) for j in range(1, 6)]
    points = (np.arange(size)[:, None] * np.array(powers) % size + 0.5) / size

    def one(point):
        tape = Tape(rule=quadrature._LatticeRule(point))
        value = function(draw(tape))
        return value * jnp.exp(tape.log_probability)

    return float(jnp.mean(jax.vmap(one)(jnp.asarray(points))))


@pytest.mark.parametrize(
    ("draw", "function", "expected"),
    [
        (lambda t: t.rule.uniform(t, ()), lambda u: u**2, 1 / 3),
        (lambda t: t.rule.normal(t, ()), lambda z: z**4, 3.0),
        (lambda t: t.rule.normal(t, (1,)), lambda z: jnp.cos(z[0]), np.exp(-0.5)),
        (lambda t: t.rule.normal(t, (3,)), lambda z: jnp.sum(z**2) ** 2, 15.0),
        (lambda t: t.rule.normal(t, (2, 2)), lambda z: jnp.sum(z**2), 4.0),
        (lambda t: t.rule.normal(t, (3,)), lambda z: jnp.cos(z[1]), np.exp(-0.5)),
    ],
)
def test_lattice_integrates_what_it_stands_for(draw, function, expected):
    with jax.enable_x64(True):
        assert _integral(draw, lambda _: 1.0) == pytest.approx(1.0, abs=1e-4)
        assert _integral(draw, function) == pytest.approx(expected, rel=2e-3)


# ---------------------------------------------------------------- right kernels


class UniformWalk(RandomWalk):
    """Propose uniformly from a window."""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x = state.position
        noise = 2.0 * random.uniform(noise_key, x.shape, x.dtype) - 1.0
        position = x + tuning.step_size * tuning.scale(noise)
        proposal = PointState(position, density.components(position))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        bad = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, bad)


def test_random_walk_passes_on_all_models():
    report = validate(RandomWalk(), level="quadrature")
    report.raise_if_failed()
    assert {test.model for test in report.tests} == set(LINE)
    assert report.power.effect < 5e-4
    assert report.alpha == 0.0
    assert "no false alarms" in str(report)


@pytest.mark.parametrize(
    ("kernel", "model"),
    [
        (MALA(), "half_line"),
        (HMC(), "two_modes_1d"),
        (Independent(), "skewed_1d"),
        (UniformWalk(), "half_line"),
    ],
    ids=str,
)
def test_kernel_passes(kernel, model):
    report = check(kernel, model)
    report.raise_if_failed()
    # Every mistake that moves the mean of a test function by this much is found.
    assert report.power.effect < 2e-3


def test_own_target_of_another_layout_passes():
    target = Target(
        log_density=lambda x: -0.5 * (x["a"] - 3.0) ** 2,
        sample_exact=lambda key: {"a": 3.0 + random.normal(key)},
        name="mine",
    )
    report = validate(RandomWalk(), target, level="quadrature")
    report.raise_if_failed()
    assert "on mine" in report.worst


# ---------------------------------------------------------------- planted bugs


@dataclass(frozen=True)
class Spoiled(MALA):
    """MALA with one mistake, as small as its size."""

    bug: str = ""
    size: float = 0.0

    def step(self, key, state, density, tuning):
        if self.bug == "ratio":  # the power of the density in the ratio
            factor = 1.0 + self.size
            density = density._replace(coefficients=factor * density.coefficients)
            state = self.refresh(state, density)
            state, info = super().step(key, state, density, tuning)
            unscaled = density._replace(coefficients=density.coefficients / factor)
            return self.refresh(state, unscaled), info
        state, info = super().step(key, state, density, tuning)
        if self.bug == "cache":
            state = state._replace(components=state.components + self.size)
        if self.bug == "lost":
            position = jnp.where(state.position > 1.0, jnp.nan, state.position)
            state = self.refresh(PointState(position, *state[1:]), density)
        if self.bug == "stale":  # and the cached values are those of the old position
            position = jnp.where(state.position > 1.0, jnp.nan, state.position)
            state = state._replace(position=position)
        return state, info


class Sequence(RandomWalk):
    """Two kernels one after the other: invariant, and not reversible."""

    reversible = False
    needs_gradient = True

    def step(self, key, state, density, tuning):
        first, second = random.split(key)
        state, _ = MALA().step(first, state, density, tuning)
        halved = tuning._replace(step_size=0.5 * tuning.step_size)
        return MALA().step(second, state, density, halved)


def test_error_of_one_percent_in_the_ratio_is_found_and_measured():
    report = check(Spoiled(bug="ratio", size=0.01))
    assert report.verdict == "fail"
    largest = max(test.discrepancy for test in report.tests)
    assert 2e-4 < largest < 2e-2
    assert "one step changes the mean of" in report.worst


def test_the_double_without_a_bug_passes():
    check(Spoiled(bug="ratio", size=0.0)).raise_if_failed()


@pytest.mark.parametrize(
    ("bug", "sign"),
    [
        ("cache", "values cached in the state differ"),
        ("lost", "ends at a position that is not"),
        ("stale", "ends at a position that is not"),
    ],
)
def test_states_that_are_no_states_are_found(bug, sign, monkeypatch):
    monkeypatch.setattr(quadrature, "_LATTICES", COARSE)
    report = check(Spoiled(bug=bug, size=1e-3))
    assert report.verdict == "fail"
    assert sign in report.worst


class AcceptsNaN(RandomWalk):
    """Adds up the log density itself and accepts where the ratio is NaN."""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x = state.position
        position = x + tuning.step_size * tuning.scale(random.normal(noise_key, x.shape))
        proposal = PointState(position, density.components(position))
        # density.combine would take a NaN for a zero density.
        log_ratio = jnp.sum(proposal.components - state.components)
        log_ratio = jnp.where(jnp.isnan(log_ratio), 0.0, log_ratio)
        return metropolis(accept_key, state, proposal, log_ratio, jnp.asarray(False))


def test_step_to_where_the_density_is_nan_is_found(monkeypatch):
    """A gamma density whose logarithm is NaN below zero, left unguarded; rejecting is right."""
    monkeypatch.setattr(quadrature, "_LATTICES", COARSE)
    target = Target(
        log_density=lambda x: 2.0 * jnp.log(x[0]) - x[0],
        sample_exact=lambda key: -jnp.sum(jnp.log(random.uniform(key, (3,))), keepdims=True),
        name="gamma",
    )
    report = validate(AcceptsNaN(), target, level="quadrature")
    assert report.verdict == "fail"
    assert report.worst.endswith("reject proposals where the density is NaN")
    right = validate(RandomWalk(), target, level="quadrature")
    assert all(c.passed for c in right.tests if c.name == "positions stay finite")


def test_a_sequence_is_invariant_and_not_reversible():
    assert check(Sequence()).verdict == "pass"
    report = check(Sequence(), law="reversible")
    assert report.verdict == "fail"
    assert "differs from the flow back" in report.worst


# ---------------------------------------------------------------- what cannot be told


def test_too_coarse_an_integration_is_inconclusive(monkeypatch):
    monkeypatch.setattr(quadrature, "_LATTICES", ((251, 55), (509, 190)))
    report = check(RandomWalk(), "half_line")
    assert report.verdict == "inconclusive"
    assert "too inexact to tell" in report.worst


def test_kernel_that_never_moves_is_inconclusive(monkeypatch):
    monkeypatch.setattr(quadrature, "_LATTICES", COARSE)
    with jax.enable_x64(True):
        tuning = RandomWalk().default_tuning(1)._replace(step_size=jnp.array(1e4))
    report = check(RandomWalk(), tuning=tuning)
    assert report.verdict == "inconclusive"
    assert "pass tuning= with a smaller step size" in report.worst


class OutsidePrimitives(RandomWalk):
    """Draws with jax.random."""

    def step(self, key, state, density, tuning):
        jax.random.normal(key, (1,))
        return super().step(key, state, density, tuning)


class ManyDraws(RandomWalk):
    """Draws too many numbers to integrate over."""

    def step(self, key, state, density, tuning):
        first, second = random.split(key)
        random.normal(first, (20,))
        return super().step(second, state, density, tuning)


class ManyChoices(RandomWalk):
    """Has too many outcomes to enumerate at every point."""

    def step(self, key, state, density, tuning):
        first, second = random.split(key)
        random.categorical(first, jnp.zeros(5), 4)
        return super().step(second, state, density, tuning)


class TracedLoop(RandomWalk):
    """Takes as many steps as the state says."""

    def step(self, key, state, density, tuning):
        num = jnp.where(state.position[0] > 0, 2, 1)

        def body(k, carry, _):
            return super(TracedLoop, self).step(k, carry, density, tuning)[0]

        return random.repeat(body, key, state, num), None


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (NoUTurn(), "cannot be integrated by quadrature"),
        (OutsidePrimitives(), "draws outside of bayeskit.inference.random"),
        (ManyDraws(), "more than 12 continuous numbers"),
        (ManyChoices(), "1250 combinations of choices"),
        (TracedLoop(), "the number of rounds depends on the state"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kernel_whose_draws_cannot_be_replaced_is_refused(kernel, words):
    with pytest.raises(UnenumerableDrawError, match=words):
        check(kernel)


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (battery()["banana"], ValueError, "integrates over the line, and banana has positions"),
        (battery()["hidden_markov"], TypeError, "Feynman-Kac"),
        (Target(log_density=lambda x: -(x[0] ** 2)), ValueError, "has no sample_exact"),
        (
            Target(
                log_density=lambda x: -1.0 * x[0] ** 2,
                sample_exact=lambda key: random.accept(key, jnp.zeros(1)).astype(int),
            ),
            TypeError,
            "draws int32 positions",
        ),
    ],
)
def test_target_that_is_not_on_the_line_is_refused(target, error, words):
    with pytest.raises(error, match=words):
        validate(RandomWalk(), target, level="quadrature")


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="unknown model"):
        validate(RandomWalk(), models=["skewed_3d"], level="quadrature")


# ---------------------------------------------------------------- approximate kernels


def test_bias_of_an_approximate_kernel_is_measured_and_falls_with_its_step(monkeypatch):
    """No chance. One step of size h from the target is wrong by a multiple of h⁴."""
    monkeypatch.setattr(quadrature, "_LATTICES", COARSE)
    sizes = (0.6, 0.3)
    biases = []
    for size in sizes:
        with jax.enable_x64(True):
            tuning = UnadjustedLangevin().default_tuning(1)._replace(step_size=jnp.array(size))
        report = validate(UnadjustedLangevin(), LINE_TARGET, level="quadrature", tuning=tuning)
        assert report.verdict == "inconclusive"
        assert report.worst.startswith("the kernel is approximate, so the law allows a bias")
        biases.append(max(t.discrepancy for t in report.tests if t.name.startswith("the mean")))
    print("largest change of a mean by one step:", dict(zip(sizes, biases, strict=True)))
    assert biases[0] > 1e-3
    assert 8.0 < biases[0] / biases[1] < 32.0
