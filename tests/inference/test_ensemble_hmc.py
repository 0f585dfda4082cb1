"""EnsembleHMC: what it keeps are transitions at frozen tuning, from a start that fits."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit.errors import ImproperPriorError, InitializationError, MissingGradientError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.engines.ensemble import program as program_module
from bayeskit.inference.engines.ensemble import warm_up as warm_up_module
from bayeskit.inference.engines.ensemble.noise import CHUNK, golden_phases
from bayeskit.inference.engines.ensemble.program import Program
from bayeskit.inference.engines.ensemble.run import Ensemble
from bayeskit.inference.engines.ensemble.stopping import (
    quick_effective_sizes,
    worst_effective_size,
)
from bayeskit.inference.engines.ensemble.warm_up import blank_factor, factor_of
from bayeskit.inference.engines.ensemble_hmc import EnsembleHMC
from bayeskit.inference.kernels.base import LowRankFactor, Tuning
from bayeskit.validation import battery

TRACES = []


def log_prior(x):
    return jnp.sum(-0.5 * (x / 2.0) ** 2 - jnp.log(2.0) - 0.5 * jnp.log(2 * jnp.pi))


def log_likelihood(x, X, y):
    """Logistic regression; notes each time that it is traced."""
    TRACES.append(x)
    logits = X @ x
    return jnp.sum(y * logits - jnp.logaddexp(0.0, logits))


LOGISTIC = bk.Target(
    log_prior=log_prior,
    log_likelihood=log_likelihood,
    sample_prior=lambda key: 2.0 * random.normal(key, (3,)),
    name="logistic",
)
ENGINE = EnsembleHMC(num_chains=32, progress=False)


def data(seed=5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 3)) @ np.array([[1.0, 0.7, 0.0], [0.0, 0.7, 0.2], [0, 0, 1.0]])
    y = (rng.uniform(size=40) < 1 / (1 + np.exp(-X @ np.array([1.0, -2.0, 0.5])))) * 1.0
    return X, y


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def truth():
    """Evidence, mean and covariance by a grid, a third of a standard deviation fine."""
    X, y = data()
    axis = np.linspace(-1.0, 1.0, 49)
    with jax.enable_x64(True):
        result = ENGINE.run(LOGISTIC, data(), 99)
        flat = result.flat("x")
        centre, root = flat.mean(axis=0), np.linalg.cholesky(np.cov(flat.T))
        z = 8.0 * np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        x = centre + z @ root.T
        logits = x @ X.T
        log_density = (y * logits - np.logaddexp(0, logits)).sum(axis=1)
        log_density += (-0.5 * (x / 2) ** 2 - np.log(2) - 0.5 * np.log(2 * np.pi)).sum(axis=1)
    cell = np.linalg.det(root) * (8.0 * (axis[1] - axis[0])) ** 3
    top = log_density.max()
    weights = np.exp(log_density - top)
    evidence = top + np.log(weights.sum() * cell)
    weights /= weights.sum()
    mean = weights @ x
    covariance = (weights[:, None] * (x - mean)).T @ (x - mean)
    return evidence, mean, covariance


@pytest.mark.parametrize("integrator", ["leapfrog", "rotation"])
def test_moments_and_evidence_equal_the_quadrature(truth, integrator):
    """Within 6 standard errors: false-alarm rate below 1e-7 for the seven numbers."""
    evidence, mean, covariance = truth
    engine = EnsembleHMC(num_chains=32, integrator=integrator, progress=False)
    result = engine.run(LOGISTIC, data(), 1)
    found = result.diagnostics
    assert found.converged, found.reasons
    assert found.ess_min >= engine.target_ess
    draws, sd = result.flat("x"), np.sqrt(np.diagonal(covariance))
    error = 6 * sd / np.sqrt(found.ess_min)
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean), error)
    # The variance of a square of a standard normal number is 2; the tails here are no heavier.
    relative = np.abs(draws.var(axis=0) / sd**2 - 1)
    np.testing.assert_array_less(relative, 6 * np.sqrt(2.5 / found.ess_squared_min))
    assert abs(result.log_evidence - evidence) < 6 * result.log_evidence_se
    assert result.log_evidence_se < 0.01
    assert "L3r reversible" in result.law and "L10 consistent" in result.law


@pytest.mark.parametrize("name", sorted(battery("posterior")))
def test_the_evidence_and_its_error_are_honest(name):
    """12 seeds: mean error within 6 standard errors, spread close to what is reported.

    The spread of 12 normal numbers is within a factor [0.2, 2.4] of the truth but for 1e-6 of
    cases on either side; the test leaves the reported error another quarter.
    """
    model = battery("posterior")[name]
    results = [ENGINE.run(model.target, None, seed) for seed in range(12)]
    errors = np.array([r.log_evidence - model.log_evidence for r in results])
    reported = np.array([r.log_evidence_se for r in results])
    assert abs(errors.mean()) < 6 * reported.mean() / np.sqrt(12) + reported.mean() ** 2
    assert 0.16 < errors.std(ddof=1) / reported.mean() < 3.0


# ---------------------------------------------------------------- frozen tuning


def run_parts(engine=ENGINE, key=3, target=LOGISTIC):
    ensemble = Ensemble(engine, target, data(), key, None)
    return ensemble, ensemble.run()


def assert_kept_draws_are_transitions(ensemble, result):
    """Each kept draw is the kernel's step from the one before, with the frozen tuning.

    The noise is drawn again and every cached value computed anew, so adaptation, restarts or a
    stale gradient anywhere between two kept draws show as another position.
    """
    program, first = ensemble.program, ensemble.tuned.num_iterations
    steps = result.sample_stats["step_size"]
    assert (steps == steps[0, 0]).all()
    density = ensemble.target.density()
    num = min(2 * CHUNK, result.positions.shape[1])
    noise = [program.noise(first + i) for i in range(0, num, CHUNK)]
    momentum = np.concatenate([part.momentum for part in noise])
    log_uniform = np.concatenate([part.log_uniform for part in noise])
    kernel, frozen = program.kernel, ensemble.tuned.tuning

    def one(x, p, u, phase):
        tuned = frozen._replace(step_size=steps[0, 0], phase=phase)
        state = kernel.init(x, density)
        return kernel.transition(p, lambda ratio: u < ratio, state, density, tuned)[0].position

    step = jax.jit(jax.vmap(jax.vmap(one, (0, 0, 0, None)), (0, 0, 0, 0)))
    positions = np.moveaxis(result.positions[:, :num], 0, 1)
    phases = golden_phases(first + 1, num - 1)
    again = step(positions[:-1], momentum[1:num], log_uniform[1:num], phases)
    np.testing.assert_allclose(again, positions[1:], rtol=1e-6, atol=1e-8)


def test_kept_draws_are_transitions_at_frozen_tuning():
    assert_kept_draws_are_transitions(*run_parts())


def adapts_for_ever(advance):
    def spoiled(self, states, tuning, first, gains=None, num=CHUNK):
        gains = np.full(CHUNK, 0.05) if gains is None else gains
        return advance(self, states, tuning, first, gains, num)

    return spoiled


def restarts_for_ever(advance):
    def spoiled(self, states, tuning, first, gains=None, num=CHUNK):
        after, record = advance(self, states, tuning, first, gains, num)
        if gains is None:
            # The chain with the least acceptance takes the place of the best one.
            means = record.acceptance.mean(axis=0)
            sources = np.arange(self.num_chains)
            sources[means.argmin()] = means.argmax()
            after = after._replace(rows=np.asarray(after.rows)[sources])
        return after, record

    return spoiled


def metric_of_kept_draws(advance):
    kept = []

    def spoiled(self, states, tuning, first, gains=None, num=CHUNK):
        if gains is None and kept:
            tuning = self.tuning(*factor_of(np.concatenate(kept), np.eye(self.dim)))
        after, record = advance(self, states, tuning, first, gains, num)
        if gains is None:
            kept.append(record.position.reshape(-1, self.dim))
        return after, record

    return spoiled


@pytest.mark.parametrize("bug", [adapts_for_ever, restarts_for_ever, metric_of_kept_draws])
def test_bugs_between_kept_draws_are_caught(bug, monkeypatch):
    monkeypatch.setattr(Program, "advance", bug(Program.advance))
    with pytest.raises(AssertionError):
        assert_kept_draws_are_transitions(*run_parts())


def test_a_stale_gradient_after_a_rejection_is_caught(monkeypatch):
    """The double of the kernel keeps the gradient of each proposal."""
    from tests.inference.test_hmc_integrators import KeepsTheGradientOfTheProposal

    monkeypatch.setattr(
        EnsembleHMC, "kernel", property(lambda self: KeepsTheGradientOfTheProposal())
    )
    ensemble, result = run_parts(EnsembleHMC(num_chains=32, num_draws=50, progress=False))
    ensemble.program.kernel = bk.inference.HMC()
    with pytest.raises(AssertionError):
        assert_kept_draws_are_transitions(ensemble, result)


def test_chunks_change_no_bit():
    ensemble = Ensemble(ENGINE, LOGISTIC, data(), 4, None)
    program = ensemble.program
    states = program.start(np.zeros((32, 3)), 0.5)
    tuning = program.tuning(np.zeros(3), np.eye(3) * 0.5)
    after, record = program.advance(states, tuning, CHUNK)
    first, head = program.advance(states, tuning, CHUNK, num=10)
    second, tail = program.advance(first, tuning, CHUNK + 10, num=15)
    for whole, *parts in zip(record, head, tail, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_number_of_draws_is_honoured_exactly():
    engine = EnsembleHMC(num_chains=32, num_draws=63, progress=False)
    short, long = engine.run(LOGISTIC, data(), 3), ENGINE.run(LOGISTIC, data(), 3)
    assert short.positions.shape == (32, 63, 3)
    np.testing.assert_array_equal(short.positions, long.positions[:, :63])


def test_units_of_the_coordinates_change_nothing():
    """x' = D x + b with diagonal D: the same acceptance, the same draws but for their units."""
    scale, shift = np.array([1e-3, 1.0, 500.0]), np.array([3.0, -1.0, 2e3])

    def moved(x, *arrays):
        z = (x - shift) / scale
        return log_prior(z) + log_likelihood(z, *arrays)

    plain = bk.Target(log_density=lambda x, *a: log_prior(x) + log_likelihood(x, *a))
    starts = np.random.default_rng(0).uniform(-2, 2, (4, 3))
    engine = EnsembleHMC(num_chains=32, num_draws=50, progress=False)
    one = engine.run(plain, data(), 2, initial_positions=starts)
    other = engine.run(
        bk.Target(log_density=moved), data(), 2, initial_positions=shift + scale * starts
    )
    np.testing.assert_allclose(
        other.sample_stats["acceptance_rate"], one.sample_stats["acceptance_rate"], atol=1e-6
    )
    np.testing.assert_allclose(
        (other.positions - shift) / scale, one.positions, rtol=1e-5, atol=1e-5
    )


def test_the_start_follows_a_linear_map():
    """x' = A x + b with triangular A maps modes, roots and starting points alike."""
    A, b = np.array([[2.0, 0, 0], [-1.0, 0.5, 0], [3.0, 1.0, 0.1]]), np.array([1.0, 2.0, 3.0])
    inverse = np.linalg.inv(A)

    def mapped(x, *arrays):
        z = inverse @ (x - b)
        return log_prior(z) + log_likelihood(z, *arrays)

    plain = bk.Target(log_density=lambda x, *a: log_prior(x) + log_likelihood(x, *a))
    starts = np.random.default_rng(0).uniform(-2, 2, (4, 3))
    one = Ensemble(ENGINE, plain, data(), 2, starts).find_start()
    there = bk.Target(log_density=mapped)
    other = Ensemble(ENGINE, there, data(), 2, starts @ A.T + b).find_start()
    (mode,), (image,) = one.mixture.modes, other.mixture.modes
    np.testing.assert_allclose(image.position, A @ mode.position + b, rtol=1e-6)
    np.testing.assert_allclose(image.root, A @ mode.root, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.positions, one.positions @ A.T + b, rtol=1e-6, atol=1e-6)
    assert abs(one.exponent - other.exponent) < 1e-6


# ---------------------------------------------------------------- compilation


def test_the_likelihood_is_traced_once_and_never_again():
    """In the program of the chains; new data of the same shapes compile nothing."""
    jax.clear_caches()
    TRACES.clear()
    first = ENGINE.run(LOGISTIC, data(), 0)
    assert len(TRACES) == 1, "the gradient appears once"
    with CompileClock() as clock:
        second = ENGINE.run(LOGISTIC, data(), 0)
        other = ENGINE.run(LOGISTIC, data(seed=6), 0)
    assert clock.num_compiled == 0
    assert len(TRACES) == 1
    np.testing.assert_array_equal(first.positions, second.positions)
    assert first.log_evidence == second.log_evidence
    assert first.log_evidence != other.log_evidence


def test_what_is_quicker_decides_how_gradients_are_taken(monkeypatch):
    """A density that is three times slower when mapped over chains, at 30 microseconds."""
    ensemble = Ensemble(ENGINE, LOGISTIC, data(), 4, None)
    program, x = ensemble.program, np.zeros(3)
    cases = {
        (3e-5, 1e-5): (True, False),
        (3e-5, 3e-5): (False, False),
        (1e-3, 1e-3): (False, True),
        (5e-6, None): (False, False),
    }
    for times, expected in cases.items():
        monkeypatch.setattr(program_module, "_seen", {})
        monkeypatch.setattr(program, "_measured", lambda x, times=times: times)
        program.choose_mapping(x, "auto")
        assert (program.serial, program._alone) == expected
        program.choose_mapping(x, "together")
        assert not program.serial
        program.choose_mapping(x, "serial")
        assert program.serial


def test_serial_gradients_give_the_same_numbers():
    """Chains that take their gradients one after another, where that is quicker."""
    ensemble = Ensemble(ENGINE, LOGISTIC, data(), 4, None)
    program = ensemble.program
    points = np.random.default_rng(0).normal(size=(40, 3))
    together = program.evaluate(points)
    program.serial = program._alone = True
    for one, other in zip(together, program.evaluate(points), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    value, gradient = program.value(points[0])
    np.testing.assert_allclose(value, together[0][0].sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient, together[1][0], rtol=1e-12)


# ---------------------------------------------------------------- parts


def test_shrinkage_of_the_metric():
    draws = np.random.default_rng(0).normal(size=(45, 2)) @ np.array([[3.0, 1.0], [0.0, 0.5]])
    mean, factor = factor_of(draws, np.eye(2))
    np.testing.assert_allclose(mean, draws.mean(axis=0))
    covariance = np.cov(draws.T, bias=True)
    shrunk = np.where(np.eye(2) > 0, covariance, 0.9 * covariance)
    np.testing.assert_allclose(factor @ factor.T, shrunk)


def test_a_coordinate_that_stands_still_keeps_its_scale():
    draws = np.random.default_rng(0).normal(size=(100, 2))
    draws[:, 1] = 4.0
    _, factor = factor_of(draws, np.eye(2))
    np.testing.assert_allclose(factor[1], [0.0, 1.0], atol=1e-12)


def test_many_dimensions_take_a_low_rank_metric():
    """A direction with a standard deviation of 30 among 300; the identity is left alone."""
    dim = 300
    assert blank_factor(32, 10).shape == (10, 10)
    like = blank_factor(32, dim)
    assert isinstance(like, LowRankFactor)
    rng = np.random.default_rng(0)
    direction = np.ones(dim) / np.sqrt(dim)
    z = rng.normal(size=(5000, dim))
    draws = z + 29.0 * (z @ direction)[:, None] * direction
    _, factor = factor_of(draws, like)
    tuning = Tuning(0.0, np.zeros(dim), factor, 0.5)
    spread = np.asarray(tuning.scale_transposed(direction))
    assert abs(np.linalg.norm(spread) / 30.0 - 1.0) < 0.05
    x = rng.normal(size=dim)
    np.testing.assert_allclose(tuning.scale(tuning.whiten(x)), x, atol=1e-9)


def autoregression(rho, num_chains=32, num=400):
    rng = np.random.default_rng(1)
    series = np.empty((num_chains, num, 1))
    now = rng.normal(size=num_chains)
    for t in range(num):
        now = rho * now + math.sqrt(1 - rho**2) * rng.normal(size=num_chains)
        series[:, t, 0] = now
    return series


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_quick_effective_size_of_an_autoregression(rho):
    series = autoregression(rho)
    exact = series.size * (1 - rho) / (1 + rho)
    assert 0.75 < quick_effective_sizes(series)[0] / exact < 1.3


def test_worst_effective_size_sees_squares_and_constants():
    """Signs that are independent hide a scale that moves slowly."""
    slow = np.exp(autoregression(0.95))
    signs = np.random.default_rng(2).choice([-1.0, 1.0], slow.shape)
    series = slow * signs
    assert worst_effective_size(series) < 0.2 * quick_effective_sizes(series)[0]
    assert worst_effective_size(np.ones((32, 100, 1))) == 0.0


# ---------------------------------------------------------------- failures


def test_a_hopeless_chain_is_restarted_in_the_warm_up():
    acceptance = np.full((CHUNK, 32), 0.8)
    acceptance[:, 7] = 0.01
    ensemble = Ensemble(ENGINE, LOGISTIC, data(), 4, None)
    states = ensemble.program.start(np.arange(96.0).reshape(32, 3), 0.1)
    generator = np.random.default_rng(0)
    after, num = warm_up_module._rescued(ensemble.program, states, acceptance, generator)
    moved = np.any(np.asarray(after.points(3).position != states.points(3).position), axis=1)
    assert num == 1
    np.testing.assert_array_equal(np.flatnonzero(moved), [7])


def separated_modes(x):
    return jnp.logaddexp(
        -0.5 * jnp.sum((x - 8.0) ** 2), jnp.log(0.5) - 0.5 * jnp.sum((x + 8.0) ** 2)
    )


def spike(x):
    """A centred hierarchy: the density is unbounded where the spread x[0] goes to nothing."""
    spread = jnp.exp(x[0])
    return jnp.sum(-0.5 * (x[1:] / spread) ** 2 - x[0]) - 0.5 * (x[0] / 3.0) ** 2


CASES = {
    "separate modes": (
        separated_modes,
        2,
        "never cross from one to another: take inference=bk.ParallelTempering()",
    ),
    "funnel": (spike, 6, "non-centred|R-hat|divergent|stuck"),
    "cauchy": (lambda x: -jnp.sum(jnp.log1p(x**2)), 2, "squares|effective sample size"),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_failures_are_reported(name):
    function, dim, message = CASES[name]
    target = bk.Target(log_density=function)
    starts = np.random.default_rng(0).uniform(-2, 2, (8, dim))
    engine = EnsembleHMC(num_chains=32, num_starts=8, max_gradients=200_000, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = engine.run(target, (), 1, initial_positions=starts)
    assert not result.diagnostics.converged
    assert any(
        part in reason for part in message.split("|") for reason in result.diagnostics.reasons
    ), result.diagnostics.reasons


class TestBadInput:
    def run(self, log_density, dim=2, starts=None):
        starts = np.linspace(-1, 1, 4 * dim).reshape(4, dim) if starts is None else starts
        target = bk.Target(log_density=log_density)
        return EnsembleHMC(num_chains=32, num_draws=50, progress=False).run(
            target, (), 0, initial_positions=starts
        )

    def test_one_dimension(self):
        result = self.run(lambda x: -0.5 * jnp.sum((x - 3.0) ** 2), dim=1)
        assert abs(result.mean("x")[0] - 3.0) < 0.2

    def test_constant_density(self):
        with pytest.raises(InitializationError, match="a constant is no posterior"):
            self.run(lambda x: 0.0 * x[0])

    def test_density_that_rises_for_ever(self):
        with pytest.raises(InitializationError, match="still rises"):
            self.run(lambda x: x[0] - 0.5 * x[1] ** 2)

    def test_density_that_is_nan(self):
        with pytest.raises(InitializationError, match="none of 4 starts has a finite density"):
            self.run(lambda x: jnp.nan * x[0])

    def test_starts_outside_the_support(self):
        with pytest.raises(InitializationError, match="4 NaN or -inf"):
            self.run(lambda x: jnp.where(x[0] > 5.0, -jnp.sum(x**2), -jnp.inf))

    def test_nan_gradient(self):
        def log_density(x):
            return -jnp.sum(x**2) + jnp.where(x[0] > -1e9, 0.0, jnp.sqrt(-jnp.abs(x[0])))

        with pytest.raises(InitializationError, match="gradient"):
            self.run(log_density)

    def test_no_gradient(self):
        target = bk.Target(log_density=lambda x: -jnp.sum(x**2), has_gradient=False)
        with pytest.raises(MissingGradientError, match="has_gradient=False"):
            EnsembleHMC().run(target, (), 0)

    def test_unknown_dimension(self):
        with pytest.raises(ImproperPriorError, match="initial_positions"):
            EnsembleHMC().run(bk.Target(log_density=lambda x: -jnp.sum(x**2)), (), 0)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_chains": 1}, "num_chains must be a whole number >= 4, got 1"),
            ({"num_draws": 2.5}, "num_draws must be a whole number or None, got 2.5"),
            ({"num_starts": 0}, "num_starts must be a whole number >= 1, got 0"),
            ({"target_ess": 0.0}, "target_ess must be positive, got 0.0"),
            ({"max_seconds": -1}, "max_seconds must be positive"),
            ({"target_acceptance": 1.0}, r"target_acceptance must be in \(0, 1\), got 1.0"),
            ({"jitter": 1.0}, r"jitter must be in \[0, 1\), got 1.0"),
            ({"integrator": "euler"}, "integrator must be one of"),
            ({"mapping": "threads"}, "mapping must be one of"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            EnsembleHMC(**settings)


def test_float32():
    X, y = data()
    with jax.enable_x64(False):
        result = ENGINE.run(LOGISTIC, (np.float32(X), np.float32(y)), 0)
    assert result.positions.dtype == np.float32
    double = ENGINE.run(LOGISTIC, data(), 0)
    error = 6 * double.sd("x") / np.sqrt(double.diagnostics.ess_min / 2)
    np.testing.assert_array_less(np.abs(result.mean("x") - double.mean("x")), error)


def test_save_and_load(tmp_path):
    result = ENGINE.run(LOGISTIC, data(), 0)
    result.save(tmp_path / "result.bkit")
    loaded = bk.Posterior.load(tmp_path / "result.bkit")
    assert loaded.diagnostics == result.diagnostics
    assert loaded.log_evidence == result.log_evidence
    np.testing.assert_array_equal(loaded.positions, result.positions)
