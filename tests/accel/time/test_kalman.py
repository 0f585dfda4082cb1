"""Kalman filters, smoothers and draws against dense normal algebra, in every form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.accel.time import covariance_form, kalman, square_root_form
from bayeskit.accel.time.chain import add_up
from bayeskit.errors import InvalidDataError
from tests.accel.time import dense
from tests.inference.linear_gaussian import NOISE, LinearGaussianPlane

quick = functools.partial(quick_jit, optimised=False)
METHODS = ("sequential", "parallel")
FORMS = ("covariance", "square_root")
ALL = [(method, form) for method in METHODS for form in FORMS]
every_way = pytest.mark.parametrize(("method", "form"), ALL)


def results(chain, observations, *, method, form):
    """Smoothed laws, and draws by each normal alone and by none."""
    shape = (observations[0].shape[0], chain.initial_mean.shape[0])
    size = shape[0] * shape[1]
    normals = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *shape)
    options = {"method": method, "form": form}

    @quick
    def both(chain, observations):
        paths = accel.kalman_sample(chain, observations, normals, **options)
        return accel.kalman_smoother(chain, observations, **options), paths

    return both(chain, observations)


def discrepancy(found, expected, constant=0.0):
    """The largest error of means, covariances, lag-one covariances, evidence and draws."""
    (smoothed, paths), (mean, cov, log_evidence) = found, expected
    roots = (paths[1:] - paths[0]).reshape(len(paths) - 1, -1)
    errors = {
        "mean": smoothed.mean - mean,
        "covariance": smoothed.covariance - dense.blocks(cov, mean.shape),
        "lag one": smoothed.lag_one_covariance - dense.blocks(cov, mean.shape, lag=1),
        "evidence": smoothed.log_evidence + constant - log_evidence,
        "mean of draws": paths[0] - mean,
        # Draws are linear in the normals, so this is their covariance, exactly.
        "covariance of draws": roots.T @ roots - cov,
    }
    return {name: np.abs(error).max(initial=0.0) for name, error in errors.items()}


def assert_equal(found, expected, constant=0.0, tolerance=1e-10):
    errors = discrepancy(found, expected, constant)
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize(
    ("num_steps", "method", "form"),
    [(n, *way) for n in (1, 2, 3, 17) for way in (ALL[::3] if n == 2 else ALL)],
)
def test_dense_algebra(num_steps, method, form, x64):
    chain, observations = dense.random_chain(num_steps)
    expected = dense.joint_law(chain, observations)
    assert_equal(results(chain, observations, method=method, form=form), expected)


@every_way
def test_natural_parameters(method, form, x64):
    """A missing coordinate is a precision without that row, a missing time is zero."""
    chain, observations = dense.random_chain(3)
    sites, constant = dense.as_sites(observations)
    found = results(chain, sites, method=method, form=form)
    assert_equal(found, dense.joint_law(chain, observations), constant)


@pytest.mark.parametrize(("method", "form"), ALL[::3])
def test_sites_that_no_observation_gives(method, form, x64):
    """A slope without a precision, and of a precision of rank one: normal in closed form."""
    chain, _ = dense.random_chain(2)
    direction = np.array([1.0, -2.0, 0.5])
    precision = np.stack([np.zeros((3, 3)), np.outer(direction, direction)])
    shift = np.array([[0.3, -0.1, 0.2], [0.7, 0.1, -0.4]])
    nothing = accel.LinearObservations(
        np.full((2, 1), np.nan), np.zeros((2, 1, 3)), np.ones((2, 1, 1)), np.zeros((2, 1))
    )
    mean, cov, _ = dense.joint_law(chain, nothing)
    whole = np.kron(np.diag([0.0, 1.0]), precision[1])
    inner = np.linalg.inv(np.linalg.inv(cov) + whole)
    slope = np.linalg.solve(cov, mean.ravel()) + shift.ravel()
    centre = inner @ slope
    log_evidence = 0.5 * (
        np.linalg.slogdet(inner)[1]
        - np.linalg.slogdet(cov)[1]
        + slope @ centre
        - mean.ravel() @ np.linalg.solve(cov, mean.ravel())
    )
    found = results(chain, accel.GaussianSites(shift, precision), method=method, form=form)
    assert_equal(found, (centre.reshape(2, 3), inner, log_evidence))


@every_way
def test_nearly_singular_noise(method, form, x64):
    chain, observations = dense.random_chain(3, noise=1e-10)
    sites, _ = dense.as_sites(observations)
    expected = dense.joint_law(chain, observations)
    assert_equal(results(chain, observations, method=method, form=form), expected)
    smoothed, _ = found = results(chain, sites, method=method, form=form)
    errors = discrepancy(found, expected)
    # The evidence of sites lacks the constant, which is as large as 1 / noise.
    errors.pop("evidence")
    assert max(errors.values()) < 1e-9, errors
    assert np.linalg.eigvalsh(smoothed.covariance).min() > 0


@every_way
def test_gaps_of_all_sizes(method, form, x64):
    """From 1e-12 to 1e12 lengthscales, against the dense kernel."""
    x = np.array([0, 1e-12, 2e-12, 0.3, 1.0, 1 + 1e-12, 1e12, 1e12 + 1, 2e12])
    chain = dense.matern_chain(x)
    y = np.sin(np.arange(len(x), dtype=float))[:, None]
    observations = accel.LinearObservations(y, np.array([[1.0, 0.0]]), np.array([[0.01]]))
    kernel = dense.matern_kernel(x)
    spread = kernel + 0.01 * np.eye(len(x))
    mean = kernel @ np.linalg.solve(spread, y)
    cov = kernel - kernel @ np.linalg.solve(spread, kernel)
    smoothed, paths = results(chain, observations, method=method, form=form)
    np.testing.assert_allclose(smoothed.mean[:, :1], mean, atol=1e-11)
    np.testing.assert_allclose(smoothed.covariance[:, 0, 0], np.diag(cov), atol=1e-11)
    roots = (paths[1:] - paths[0])[:, :, 0]
    np.testing.assert_allclose(roots.T @ roots, cov, atol=1e-11)
    assert np.linalg.eigvalsh(smoothed.covariance).min() > 0


@every_way
def test_states_that_do_not_move(method, form, x64):
    """No noise between times, and a coordinate that is known from the start."""
    zero = np.zeros((2, 2))
    chain = accel.GaussianChain(np.zeros(2), np.diag([1.0, 0.0]), np.eye(2), zero)
    y = np.arange(5.0)[:, None]
    observations = accel.LinearObservations(y, np.array([[1.0, 0.0]]), np.eye(1))
    smoothed, paths = results(chain, observations, method=method, form=form)
    np.testing.assert_allclose(smoothed.mean, np.outer(np.ones(5), [10 / 6, 0]), atol=1e-12)
    wanted = np.broadcast_to(np.diag([1 / 6, 0.0]), (5, 2, 2))
    np.testing.assert_allclose(smoothed.covariance, wanted, atol=1e-12)
    np.testing.assert_allclose(smoothed.lag_one_covariance, wanted[1:], atol=1e-12)
    np.testing.assert_allclose(paths, paths[:, :1] + 0 * paths, atol=1e-7)


@pytest.fixture(scope="module")
def long_series():
    """A thousand irregular times, smoothed step by step in float64."""
    with jax.enable_x64(True):
        x = np.sort(np.random.default_rng(1).uniform(0, 100, 1000))
        y = np.sin(x) + 0.1 * np.random.default_rng(2).normal(size=1000)
        y[::9] = np.nan
        chain = dense.matern_chain(x)
        observations = accel.LinearObservations(
            y[:, None], np.array([[1.0, 0.0]]), np.array([[0.01]])
        )
        options = {"method": "sequential", "form": "covariance"}
        smooth = quick(lambda *args: accel.kalman_smoother(*args, **options))
        return chain, observations, jax.tree.map(np.asarray, smooth(chain, observations))


@every_way
def test_a_thousand_steps(method, form, long_series, x64):
    chain, observations, expected = long_series
    smooth = quick(lambda *args: accel.kalman_smoother(*args, method=method, form=form))
    for x, y in zip(smooth(chain, observations), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9 * np.abs(y).max())


@pytest.mark.parametrize("method", METHODS)
def test_float32_by_default_in_square_roots(method, long_series):
    chain, observations, expected = long_series
    smooth = quick(lambda *args: accel.kalman_smoother(*args, method=method))
    found = smooth(chain, observations)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * np.abs(y).max())
    np.testing.assert_allclose(found.log_evidence, expected.log_likelihood.sum(), rtol=1e-5)


def scaled(chain, observations, theta):
    return (
        chain._replace(
            initial_covariance=theta[0] * chain.initial_covariance,
            transition=theta[1] * chain.transition,
            covariance=theta[2] * chain.covariance,
        ),
        observations._replace(covariance=theta[3] * observations.covariance),
    )


@every_way
def test_derivatives(method, form, x64):
    """Against finite differences of dense algebra; data are missing at two times."""
    chain, observations = dense.random_chain(4)

    def log_evidence(theta):
        return accel.kalman_log_evidence(
            *scaled(chain, observations, theta), method=method, form=form
        )

    theta = np.array([1.0, 0.9, 1.1, 0.8])
    gradient = quick(jax.grad(log_evidence))(theta)
    for i, step in enumerate(1e-5 * np.eye(4)):
        above, below = (
            dense.joint_law(*scaled(chain, observations, t))[2]
            for t in (theta + step, theta - step)
        )
        np.testing.assert_allclose(gradient[i], (above - below) / 2e-5, rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_of_sites(method, x64):
    """At a precision of zero too: minus half the second moment."""
    chain, observations = dense.random_chain(3)
    sites, _ = dense.as_sites(observations)
    gradient = quick(
        jax.grad(
            lambda sites: accel.kalman_log_evidence(
                chain, sites, method=method, form="covariance"
            )
        )
    )(sites)
    mean, cov, _ = dense.joint_law(chain, observations)
    u = np.einsum("tij,tj->ti", sites.matrix, mean)
    second = np.einsum(
        "tij,tjk,tlk->til", sites.matrix, dense.blocks(cov, mean.shape), sites.matrix
    ) + np.einsum("ti,tj->tij", u, u)
    np.testing.assert_allclose(gradient.shift, u, rtol=1e-9)
    found = 0.5 * (gradient.precision + np.swapaxes(gradient.precision, 1, 2))
    np.testing.assert_allclose(found, -0.5 * second, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_batches_equal_loops(method):
    """Particles with noise of their own, in float32."""
    chain, observations = dense.random_chain(3)
    noises = np.array([0.5, 1.0, 3.0])

    def seen(noise):
        return observations._replace(covariance=noise * observations.covariance)

    def draw(noise):
        normals = np.zeros((2, 1, 3, 3))
        return accel.kalman_sample(chain, seen(noise), normals, method=method)

    batch = quick(jax.vmap(draw))(noises)
    assert batch.shape == (3, 2, 1, 3, 3)
    for noise, paths in zip(noises, batch, strict=True):
        mean = dense.joint_law(chain, seen(noise))[0]
        np.testing.assert_allclose(paths, mean + 0 * paths, rtol=1e-4, atol=1e-5)


def test_sums_of_many_numbers_do_not_drift():
    """A million tenths, in rows; one after another they would be off by a thousandth."""
    rows = np.full((2, 1_000_003), 0.1, np.float32)
    np.testing.assert_allclose(add_up(jnp.asarray(rows)), rows.sum(1, float), rtol=1e-6)
    drifting = np.cumsum(rows[0])[-1]
    assert abs(drifting / rows[0].sum(dtype=float) - 1) > 1e-3


def test_constants_and_an_independent_filter(x64):
    """Matrices without an axis of time, against the filter that other tests use."""
    model = LinearGaussianPlane(6, seed=3)
    chain = accel.GaussianChain(np.zeros(2), np.eye(2), model.MATRIX, np.eye(2))
    observations = accel.LinearObservations(model.y, np.eye(2), NOISE * np.eye(2))
    constant = 6 * np.log(2 * np.pi * NOISE)
    found = quick(accel.kalman_log_evidence)(chain, observations) + constant
    np.testing.assert_allclose(found, model.log_evidence(), rtol=1e-12)


# ------------------------------------------------------------------- planted bugs


def no_information(form):
    name = "J" if form == "covariance" else "Z"
    combine = module_of(form)._combine
    return lambda i, j: combine(i, j._replace(**{name: 0 * getattr(j, name)}))


def swapped(form):
    combine = module_of(form)._combine
    return lambda i, j: combine(j, i)


def module_of(form):
    return covariance_form if form == "covariance" else square_root_form


@pytest.fixture
def traced_anew():
    """Programs traced from the right code serve no planted bug, nor the reverse."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bug", [no_information, swapped])
def test_wrong_combinations_are_caught(bug, form, x64, monkeypatch):
    """The term J dropped; the order of operands swapped."""
    chain, observations = dense.random_chain(3)
    monkeypatch.setattr(module_of(form), "_combine", bug(form))
    found = results(chain, observations, method="parallel", form=form)
    assert discrepancy(found, dense.joint_law(chain, observations))["mean"] > 0.01


@pytest.mark.parametrize(("method", "form"), ALL[::3])
def test_a_first_step_from_another_time_is_caught(method, form, x64, monkeypatch):
    """The initial law taken for that before time 0, in place of that at time 0."""
    chain, observations = dense.random_chain(3)
    right = kalman.stacked

    def late(*args):
        (F, b, Q), seen = right(*args)
        return (F, b, Q.at[0].set(F[1] @ Q[0] @ F[1].T + Q[1])), seen

    monkeypatch.setattr(kalman, "stacked", late)
    found = results(chain, observations, method=method, form=form)
    errors = discrepancy(found, dense.joint_law(chain, observations))
    assert min(errors["mean"], errors["evidence"], errors["covariance of draws"]) > 0.01


def test_wrong_results_are_caught(x64):
    """Missing taken for zero; lag-one covariances transposed; draws without their noise."""
    chain, observations = dense.random_chain(3)
    expected = dense.joint_law(chain, observations)
    way = {"method": "sequential", "form": "covariance"}
    filled = observations._replace(values=np.nan_to_num(observations.values))
    assert discrepancy(results(chain, filled, **way), expected)["mean"] > 0.01
    smoothed, paths = results(chain, observations, **way)
    turned = smoothed._replace(
        lag_one_covariance=jnp.swapaxes(smoothed.lag_one_covariance, 1, 2)
    )
    assert discrepancy((turned, paths), expected)["lag one"] > 0.01
    still = paths.at[1 + 3 : 1 + 6].set(paths[0])
    assert discrepancy((smoothed, still), expected)["covariance of draws"] > 0.01


# ----------------------------------------------------------------------- dispatch


def lengths_of_loops(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"]
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from lengths_of_loops(inner)


@pytest.mark.parametrize("form", FORMS)
def test_every_function_honours_the_method(form):
    """99 steps: loops over time in one method, over log2 of it in the other."""
    chain, observations = dense.random_chain(99)
    functions = {
        "filter": accel.kalman_filter,
        "evidence": accel.kalman_log_evidence,
        "smoother": accel.kalman_smoother,
        "sample": lambda c, o, **kw: accel.kalman_sample(c, o, np.zeros((99, 3)), **kw),
    }
    for name, function in functions.items():
        num_loops = 1 if name in ("filter", "evidence") else 2
        for method, expected in (
            ("sequential", num_loops),
            ("parallel", 0),
            ("auto", num_loops),
        ):
            call = functools.partial(function, method=method, form=form)
            lengths = list(lengths_of_loops(jax.make_jaxpr(call)(chain, observations).jaxpr))
            assert sum(n >= 98 for n in lengths) == expected, (name, method, lengths)
            if method != "sequential":
                assert 7 in lengths


def test_the_platform_decides_when_the_program_is_lowered():
    chain, observations = dense.random_chain(99)

    def num_loops(platform, method):
        call = lambda c, o: accel.kalman_log_evidence(c, o, method=method)
        traced = jax.jit(call).trace(chain, observations)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("tensor<99x3x")

    assert num_loops("cpu", "auto") == num_loops("cpu", "sequential")
    assert num_loops("cuda", "auto") == num_loops("cuda", "parallel")
    assert num_loops("cpu", "sequential") != num_loops("cpu", "parallel")


PROGRAMS = ("_filtered", "_log_evidence", "_smoothed", "_sampled")


def test_a_second_call_outside_of_jit_compiles_nothing():
    chain, observations = dense.random_chain(3)

    def call_all(values):
        seen = observations._replace(values=values)
        accel.kalman_filter(chain, seen)
        accel.kalman_log_evidence(chain, seen)
        accel.kalman_smoother(chain, seen)
        accel.kalman_sample(chain, seen, np.zeros((3, chain.initial_mean.shape[0])))
        return [getattr(kalman, name)._cache_size() for name in PROGRAMS]

    sizes = call_all(observations.values)
    assert min(sizes) > 0
    assert call_all(observations.values + 1) == sizes


def test_bad_input():
    chain, observations = dense.random_chain(3)
    cases = [
        (
            chain._replace(transition=np.eye(2)),
            observations,
            r"transition must have .* or \(2, 3",
        ),
        (
            chain._replace(offset=np.zeros(2)),
            observations,
            r"offset must have the shape \(3,\)",
        ),
        (chain._replace(initial_mean=np.zeros((1, 3))), observations, "initial_mean must have"),
        (chain._replace(initial_mean=0.0), observations, r"initial_mean must have .* got \(\)"),
        (chain, observations._replace(values=np.zeros(3)), "values must have the shape"),
        (chain, observations._replace(matrix=np.eye(3)), r"matrix must have .* got \(3, 3\)"),
        (chain, accel.GaussianSites(np.zeros((3, 2)), np.eye(2)), r"matrix must have"),
    ]
    for bad_chain, bad_observations, message in cases:
        with pytest.raises(InvalidDataError, match=message):
            accel.kalman_filter(bad_chain, bad_observations)
    with pytest.raises(InvalidDataError, match=r"normals must have the shape \(\.\.\., 3, 3\)"):
        accel.kalman_sample(chain, observations, np.zeros((3, 2)))
    with pytest.raises(TypeError, match="LinearObservations or GaussianSites, got ndarray"):
        accel.kalman_filter(chain, observations.values)
    with pytest.raises(ValueError, match="method must be one of"):
        accel.kalman_filter(chain, observations, method="gpu")
    with pytest.raises(ValueError, match="form must be one of"):
        accel.kalman_filter(chain, observations, form="root")


def bad_models():
    """A chain or observations with one wrong number, and what is said of it."""
    chain, observations = dense.random_chain(3)
    precisions = np.stack([np.eye(3)] * 3)
    sites = accel.GaussianSites(np.ones((3, 3)), precisions)

    def with_entry(array, place, value):
        changed = np.array(array, float)
        changed[place] = value
        return changed

    for wrong, what in ((np.nan, "finite: got nan"), (np.inf, "finite: got inf")):
        for name in chain._fields:
            place = (0,) * np.ndim(getattr(chain, name))
            array = with_entry(getattr(chain, name), place, wrong)
            yield chain._replace(**{name: array}), observations, f"^{name} must be {what}"
        for name in ("matrix", "covariance", "offset"):
            # Of the first time, at which all is seen.
            place = (0,) * np.ndim(getattr(observations, name))
            array = with_entry(getattr(observations, name), place, wrong)
            yield chain, observations._replace(**{name: array}), f"^{name}.* {what}"
        for name in ("shift", "precision"):
            array = with_entry(getattr(sites, name), (1,) * getattr(sites, name).ndim, wrong)
            yield chain, sites._replace(**{name: array}), f"^{name} must be {what}"
    infinite = with_entry(observations.values, (0, 0), np.inf)
    yield chain, observations._replace(values=infinite), "^values must be finite: got inf"
    for name in ("initial_covariance", "covariance"):
        array = getattr(chain, name)
        place = (0,) * array.ndim
        for value, what in (
            (-0.5, "not be negative: got -0.5"),
            (0.0, "no entry may be larger"),
        ):
            yield chain._replace(**{name: with_entry(array, place, value)}), observations, what
        place = (0,) * (array.ndim - 1) + (1,)
        skew = with_entry(array, place, array[place] + 0.1)
        yield chain._replace(**{name: skew}), observations, f"^{name} .* must be symmetric"
    negative = with_entry(observations.covariance, (0, 0, 0), -0.5)
    yield chain, observations._replace(covariance=negative), "^covariance of observations"
    minus = with_entry(precisions, (1, 2, 2), -0.1)
    yield chain, sites._replace(precision=minus), r"^precision .* got -0.1 at index \(1, 2\)"


def test_wrong_numbers_are_refused():
    cases = list(bad_models())
    assert len(cases) > 20
    for chain, observations, message in cases:
        with pytest.raises(InvalidDataError, match=message):
            accel.kalman_log_evidence(chain, observations)
    # The noise of what was not seen may be anything.
    chain, observations = dense.random_chain(3)
    unseen = np.isnan(observations.values)
    assert unseen.any()
    noise = np.where(unseen[:, :, None] | unseen[:, None], np.nan, observations.covariance)
    found = accel.kalman_log_evidence(chain, observations._replace(covariance=noise))
    assert found == accel.kalman_log_evidence(chain, observations)


@every_way
def test_inside_jit_wrong_numbers_are_not_overlooked(method, form):
    """A root of NaN, or of a negative variance, must not count as zero."""
    evidence = quick(functools.partial(accel.kalman_log_evidence, method=method, form=form))
    for chain, observations, message in bad_models():
        if "finite" in message or "-0.5" in message or "of observations" in message:
            assert not np.isfinite(evidence(chain, observations)), message
