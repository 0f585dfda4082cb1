"""Evidence of multilinear models by Rao-Blackwellised SMC, against quadrature and long runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from bayeskit.errors import StalledError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.gp_kernels import FreeParameters, LogNormal, Matern12, Matern32
from bayeskit.models.base import precision_scope
from bayeskit.models.functional_tucker.low_rank import smc
from bayeskit.models.functional_tucker.low_rank.data import tensor_data
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior
from bayeskit.models.functional_tucker.low_rank.posterior import Prior, TensorPosterior
from bayeskit.models.functional_tucker.low_rank.smc import CollapsedPath, run_smc

_SEEDS = 8


def one_function():
    """One function of one mode, with known noise: a Gaussian process with two scales."""
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(0, 3, 14))
    y = 1.2 * np.sin(2 * x) + 0.2 * rng.normal(size=14)
    free = FreeParameters.of((Matern32(LogNormal(1.0, 0.8), LogNormal(0.7, 0.8)),))
    prior = Prior((free,), 1.0, NoisePrior(np.float64(25.0)))
    return x, y, Layout((1,), "diagonal"), prior, tensor_data(x[:, None], y)


def quadrature(x, y, free):
    """Return nodes, weights, and the log evidence at each, from dense covariances."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    u = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    values = []
    for std, length in np.asarray(free.median * np.exp(free.spread * u)):
        t = np.sqrt(3.0) * np.abs(x[:, None] - x) / length
        C = std**2 * (1 + t) * np.exp(-t) + np.eye(len(x)) / 25.0
        whole = y @ np.linalg.solve(C, y) + np.linalg.slogdet(2 * np.pi * C)[1]
        values.append(-0.5 * whole)
    return u, np.log(np.outer(weights, weights) / weights.sum() ** 2).ravel(), np.array(values)


def errors_of(runs, exact):
    """Return the error of the mean evidence (not of its log) in standard errors, and ratios."""
    values, errors = np.array(runs).T
    ratios = np.exp(values - exact)
    return (ratios.mean() - 1.0) / (np.mean(errors) / np.sqrt(len(runs))), values, errors


def test_evidence_and_draws_of_one_function():
    """Exact by quadrature over the scales; false alarms at most 1e-6 (5 standard errors)."""
    x, y, *model = one_function()
    with precision_scope("float64"):
        u, log_weights, values = quadrature(x, y, model[1].parameters[0])
        exact = logsumexp(values + log_weights)
        keys = [jax.random.key(seed) for seed in range(_SEEDS)]
        found = [run_smc(*model, key, num_particles=400) for key in keys]
        missing = [
            # A prior of the noise that forgets the constant of the likelihood.
            (value - 7.0 * np.log(25.0 / (2 * np.pi)), error)
            for _draws, value, error in found
        ]
    z, runs, errors = errors_of([one[1:] for one in found], exact)
    assert abs(z) < 5.0
    # The error that one run states is about that over many.
    assert 0.4 < np.std(runs, ddof=1) / np.mean(errors) < 2.0
    assert abs(errors_of(missing, exact)[0]) > 20.0
    posterior = np.exp(values + log_weights - exact)
    mean, square = posterior @ u, posterior @ u**2
    drawn = np.concatenate([one[0].parts["mode_0"]["u"] for one in found])
    # About a sixth of the particles count as independent.
    std = np.sqrt((square - mean**2) / (len(drawn) / 6.0))
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 5.0 * std)


def two_modes(layout, core_precision=1.0):
    """Few coordinates of two modes, learned noise: prior draws are a reference."""
    table = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    y = np.array([0.9, -0.2, 1.3, -0.8, -0.7])
    kernel = Matern12(LogNormal(1.0, 0.5), LogNormal(1.0, 0.5))
    free = tuple(FreeParameters.of((kernel,) * rank) for rank in layout.ranks)
    noise = NoisePrior(Gamma(np.float64(3.0), np.float64(0.5)))
    return layout, Prior(free, np.float64(core_precision), noise), tensor_data(table, y)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Layout((1, 1), "diagonal"), Layout((1, 2))])
def test_evidence_of_two_modes(layout):
    """Against prior draws with one mode integrated out; false alarms at most 1e-6."""
    with precision_scope("float64"):
        model = two_modes(layout)
        path = CollapsedPath(TensorPosterior(*model), 1)

        @jax.jit
        def masses(key):
            def one(key, _):
                state = path.posterior.draw_prior(key)
                return path.log_mass(state, path.sites(state), 1.0)

            return random.lanes(one, key, jnp.arange(20_000))

        each = np.concatenate([masses(jax.random.key(seed)) for seed in range(20)])
        exact = logsumexp(each) - np.log(len(each))
        own = np.std(np.exp(each - exact)) / np.sqrt(len(each))
        runs = [
            run_smc(*model, jax.random.key(seed), num_particles=400)[1:]
            for seed in range(_SEEDS)
        ]
    z, values, errors = errors_of(runs, exact)
    assert own < 0.02
    assert abs(z) < 5.0
    assert 0.3 < np.std(values, ddof=1) / np.mean(errors) < 2.0


def test_the_same_key_gives_the_same_result():
    model = one_function()[2:]
    with precision_scope("float64"):
        first, again = (run_smc(*model, jax.random.key(0), num_particles=400) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_other_data_of_the_same_shapes_compile_nothing():
    layout, prior, data = one_function()[2:]
    with precision_scope("float64"):
        run_smc(layout, prior, data, jax.random.key(0), num_particles=400)
        other = data._replace(y=data.y + 0.1)
        with CompileClock() as clock:
            run_smc(layout, prior, other, jax.random.key(1), num_particles=400)
    assert clock.num_compiled == 0


@pytest.mark.slow
def test_too_few_stages_are_refused():
    model = one_function()[2:]
    with precision_scope("float64"), pytest.raises(StalledError, match="max_stages=1"):
        run_smc(*model, jax.random.key(0), num_particles=400, max_stages=1)


def test_a_path_that_does_not_arrive_is_refused(monkeypatch):
    monkeypatch.setattr(smc, "_smc", lambda *_, **__: (None, -3.0, 0.1, 0.25, 100))
    with pytest.raises(StalledError, match=r"stands at 0\.25 after 100 stages"):
        run_smc(*one_function()[2:], jax.random.key(0), num_particles=400)


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["CP 1", "CP 2", "CP 3", "Tucker (2, 2, 2)"])
def test_ranks_are_found_by_the_evidence(truth):
    """The true ranks are the smallest within 3 nats of the highest evidence; fewer are far."""
    from benchmarks import tensor_ranks

    (row,) = tensor_ranks.main(["--truths", truth])
    assert row["chosen"] == truth
    found = {name: one["log_evidence"] for name, one in row["candidates"].items()}
    too_few = {
        "CP 1": (),
        "CP 2": ("CP 1", "Tucker (2, 2, 1)"),
        "CP 3": ("CP 1", "CP 2", "Tucker (2, 2, 1)", "Tucker (2, 2, 2)"),
        "Tucker (2, 2, 2)": ("CP 1", "CP 2", "Tucker (2, 2, 1)"),
    }
    assert all(found[name] < found[truth] - 50.0 for name in too_few[truth])
