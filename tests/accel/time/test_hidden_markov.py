"""Hidden Markov models against sums over all paths, with impossible states and steps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.accel.time import hidden_markov, log_semiring
from bayeskit.errors import InvalidDataError
from tests.accel.time import dense

quick = functools.partial(quick_jit, optimised=False)
METHODS = ("sequential", "parallel")
every_method = pytest.mark.parametrize("method", METHODS)
# Uniforms in the middle of cells: the shares of paths are within 2 / NUM_CELLS a step.
NUM_CELLS = 80


CENTRES = (np.arange(NUM_CELLS) + 0.5) / NUM_CELLS
UNIFORMS = np.stack(np.meshgrid(*[CENTRES] * 3, indexing="ij"), -1).reshape(-1, 3)


def results(model, method):
    """Filtered and smoothed probabilities, log evidence, and the most likely path."""

    @quick
    def everything(model):
        filtered = accel.hidden_markov_filter(model, method=method)
        smoothed = accel.hidden_markov_smoother(model, method=method)
        best = accel.hidden_markov_most_likely_path(model, method=method)
        return (
            jnp.exp(filtered.log_probability),
            jnp.exp(smoothed),
            filtered.log_evidence,
            *best,
        )

    return everything(model)


def expected_results(model):
    masses = dense.path_masses(model)
    num_steps, num_states = model.log_likelihood.shape
    filtered = []
    for t in range(num_steps):
        past = accel.HiddenMarkovModel(
            model.log_initial, model.log_transition[:t], model.log_likelihood[: t + 1]
        )
        law = dense.path_masses(past).reshape(-1, num_states).sum(0)
        filtered.append(law / law.sum())
    smoothed = np.array(
        [
            masses.sum(tuple(s for s in range(num_steps) if s != t)) / masses.sum()
            for t in range(num_steps)
        ]
    )
    best = np.unravel_index(masses.argmax(), masses.shape)
    return np.array(filtered), smoothed, np.log(masses.sum()), best, np.log(masses.max())


def errors(found, expected):
    return [np.abs(np.asarray(x) - y).max() for x, y in zip(found, expected, strict=True)]


@every_method
@pytest.mark.parametrize("num_steps", [1, 2, 3, 6])
def test_sums_over_paths(num_steps, method, x64):
    model = dense.random_states(num_steps)
    assert max(errors(results(model, method), expected_results(model))) < 1e-12


def error_of_draws(paths, masses):
    """The largest error of the share of a path, over a grid of uniforms."""
    share = np.zeros(masses.shape)
    np.add.at(share, tuple(np.asarray(paths).T), 1 / len(paths))
    assert np.all(share[masses == 0] == 0)
    return np.abs(share - masses / masses.sum()).max()


@every_method
def test_law_of_draws(method):
    """Every cell of a grid of uniforms: the share of a path is its probability, nearly."""
    model = dense.random_states(3, seed=7)
    draw = quick(functools.partial(accel.hidden_markov_sample, model, method=method))
    assert error_of_draws(draw(UNIFORMS), dense.path_masses(model)) < 2 / NUM_CELLS


def test_draws_that_forget_the_next_state_are_caught():
    """Planted: each state from its filtered law."""
    model = dense.random_states(3, seed=7)
    model = model._replace(log_transition=np.maximum(model.log_transition, -20.0))

    def draw(u):
        forward = accel.hidden_markov_filter(model).log_probability
        steps = jnp.zeros((2, 3, 3), forward.dtype)
        inverse = log_semiring.inverse_cdf
        return hidden_markov._trace_back(forward, steps, u, inverse, "sequential")

    paths = quick(jax.vmap(draw))(UNIFORMS.astype(np.float32))
    assert error_of_draws(paths, dense.path_masses(model)) > 4 / NUM_CELLS


def test_ends_of_the_uniforms():
    """0 and the number below 1 choose states that are possible, also in float32."""
    model = dense.random_states(6)
    masses = dense.path_masses(model)
    below = np.nextafter(np.float32(1), np.float32(0))
    uniforms = np.array(list(itertools.product([0.0, below], repeat=6)), np.float32)
    for method in METHODS:
        draw = quick(
            lambda u, method=method: accel.hidden_markov_sample(model, u, method=method)
        )
        assert all(masses[tuple(path)] > 0 for path in np.asarray(draw(uniforms)))


@pytest.fixture(scope="module")
def long_model():
    rng = np.random.default_rng(5)
    return accel.HiddenMarkovModel(
        np.log(rng.dirichlet(np.ones(3))),
        np.log(rng.dirichlet(np.ones(3), size=3)),
        1000 * rng.normal(size=(2000, 3)),
    )


def test_long_series(long_model, x64):
    """Both methods agree in float64; so do draws and the most likely path, to the bit."""
    found, expected = (results(long_model, method) for method in ("parallel", "sequential"))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
    assert np.array_equal(found[3], expected[3])
    uniforms = np.random.default_rng(6).random((2, 2000))
    draws = [
        quick(lambda u, m=method: accel.hidden_markov_sample(long_model, u, method=m))(uniforms)
        for method in METHODS
    ]
    assert np.array_equal(*draws)


@every_method
def test_float32_keeps_its_digits(method, long_model):
    """Though logarithms of the masses of paths go into the millions."""
    with jax.enable_x64(True):
        expected = results(long_model, "sequential")
    found = results(long_model, method)
    assert abs(found[2]) > 1e5
    np.testing.assert_allclose(found[1], expected[1], atol=2e-3)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-6)


@every_method
def test_no_possible_path(method):
    model = dense.random_states(3)
    blocked = model.log_likelihood.copy()
    blocked[1] = -np.inf
    filtered = quick(functools.partial(accel.hidden_markov_filter, method=method))(
        model._replace(log_likelihood=blocked)
    )
    assert filtered.log_evidence == -np.inf
    assert np.all(filtered.log_probability[1:] == -np.inf)
    assert np.isfinite(filtered.log_probability[0, 0])


@every_method
def test_derivatives(method, x64):
    """Of the log evidence in the log likelihoods: the smoothed law; finite at -inf."""
    model = dense.random_states(3)
    gradient = quick(
        jax.grad(functools.partial(accel.hidden_markov_log_evidence, method=method))
    )(model)
    np.testing.assert_allclose(gradient.log_likelihood, expected_results(model)[1], atol=1e-12)
    assert np.all(np.isfinite(gradient.log_transition))


# ------------------------------------------------------------------- planted bugs


@every_method
def test_wrong_models_are_caught(method, x64):
    """Steps backwards in time; the first observation left out."""
    model = dense.random_states(3)
    expected = expected_results(model)
    turned = model._replace(log_transition=np.swapaxes(model.log_transition, 1, 2))
    late = model.log_likelihood.copy()
    late[0] = 0.0
    for wrong in (turned, model._replace(log_likelihood=late)):
        assert max(errors(results(wrong, method), expected)[:3]) > 0.01


def test_wrong_products_are_caught(x64, monkeypatch):
    """Operands in another order."""
    model = dense.random_states(3)
    expected = expected_results(model)
    right = log_semiring.blocked_associative_scan

    def swapped(op, *args, **options):
        return right(lambda a, b: op(b, a), *args, **options)

    monkeypatch.setattr(log_semiring, "blocked_associative_scan", swapped)
    # Programs traced from the right code serve no planted bug, nor the reverse.
    jax.clear_caches()
    wrong = errors(results(model, "parallel"), expected)
    jax.clear_caches()
    assert wrong[0] > 0.01 and wrong[1] > 0.01


def test_a_second_call_outside_of_jit_compiles_nothing():
    def call_all(model):
        accel.hidden_markov_filter(model)
        accel.hidden_markov_log_evidence(model)
        accel.hidden_markov_smoother(model)
        accel.hidden_markov_sample(model, np.full(3, 0.5))
        accel.hidden_markov_most_likely_path(model)
        names = ("_filtered", "_log_evidence", "_smoothed", "_sampled", "_most_likely_path")
        return [getattr(hidden_markov, name)._cache_size() for name in names]

    model = dense.random_states(3)
    sizes = call_all(model)
    assert min(sizes) > 0
    assert call_all(model._replace(log_likelihood=model.log_likelihood - 1)) == sizes


def test_bad_input():
    model = dense.random_states(3)
    with pytest.raises(InvalidDataError, match=r"log_likelihood must .* got \(3,\)"):
        accel.hidden_markov_filter(model._replace(log_likelihood=np.zeros(3)))
    with pytest.raises(InvalidDataError, match=r"log_initial must have the shape \(3,\)"):
        accel.hidden_markov_smoother(model._replace(log_initial=np.zeros(2)))
    with pytest.raises(InvalidDataError, match=r"log_transition .* \(3, 3\) or \(2, 3, 3\)"):
        accel.hidden_markov_filter(model._replace(log_transition=np.zeros((3, 3, 3))))
    with pytest.raises(InvalidDataError, match=r"uniforms must have the shape \(\.\.\., 3\)"):
        accel.hidden_markov_sample(model, np.zeros(4))
    with pytest.raises(ValueError, match="method must be one of"):
        accel.hidden_markov_filter(model, method="gpu")
    with pytest.raises(TypeError, match="must be a HiddenMarkovModel, got tuple"):
        accel.hidden_markov_filter(tuple(model))


@every_method
@pytest.mark.parametrize("name", accel.HiddenMarkovModel._fields)
def test_wrong_numbers_are_not_overlooked(name, method):
    """NaN must not count as a probability of zero: the evidence would look like one."""
    evidence = functools.partial(accel.hidden_markov_log_evidence, method=method)
    for value in (np.nan, np.inf):
        model = dense.random_states(3)
        getattr(model, name)[(1,) * getattr(model, name).ndim] = value
        message = rf"^{name} must hold logarithms.*: got {value} at index .*1.* \(1 of"
        with pytest.raises(InvalidDataError, match=message):
            evidence(model)
        assert np.isnan(quick(evidence)(model))
    with pytest.raises(InvalidDataError, match=r"uniforms must be in \[0, 1\)"):
        accel.hidden_markov_sample(dense.random_states(3), np.array([0.5, 1.0, 0.5]))
