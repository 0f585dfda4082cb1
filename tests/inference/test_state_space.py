"""State-space models of NumPyro distributions, against the models they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.errors import InvalidDataError, MissingDensityError, UnknownParameterError
from bayeskit.inference.observing import log_density, log_likelihood
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import StateSpaceTarget
from bayeskit.inference.windowed_lineage import WindowedLineage
from bayeskit.validation.exact import Atoms
from tests.inference import finite_models as fm
from tests.inference.finite_models import assert_caught, assert_exact

# ---------------------------------------------------------------- a finite model, enumerated

RNG = np.random.default_rng(3)
FIRST = np.log(RNG.dirichlet(np.ones(2)))
# One table for each time: a transition that is asked for another time is another model.
MOVES = np.log(RNG.dirichlet(np.ones(2), (3, 2)))
SEEN = np.log(RNG.dirichlet(np.ones(3), 2))
Y = np.array([2.0, 0.0, np.nan])

HMM = bk.StateSpaceModel(
    initial=lambda p: dist.Categorical(logits=fm.log_table(FIRST)),
    transition=lambda p, x, t: dist.Categorical(logits=fm.log_table(MOVES)[t, x]),
    observation=lambda p, x, t: dist.Categorical(logits=fm.log_table(SEEN)[x]),
)


def forward(y):
    """The law of the last state times the evidence, by the forward recursion."""
    mass = np.exp(FIRST)
    for t, seen in enumerate(y):
        mass = mass @ np.exp(MOVES[t]) if t else mass
        mass = mass * (1.0 if np.isnan(seen) else np.exp(SEEN[:, int(seen)]))
    return Atoms(np.arange(2), mass)


def finite_model(y=Y):
    return StateSpaceTarget.of(HMM, Rows(y)).feynman_kac()


def changed(model, **functions):
    whole = {
        "initial": model.initial,
        "log_g0": lambda x: model.log_g0(0, x),
        "kernel": model.kernel,
        "log_g": model.log_g,
        "num_steps": model.num_steps,
    }
    return bi.FeynmanKac(**{**whole, **functions})


@pytest.mark.parametrize("y", [Y, np.array([np.nan, 1.0, 2.0])], ids=["last", "first"])
def test_a_finite_model_with_missing_observations_is_exact(y):
    assert_exact(bi.particle_filter(finite_model(y), 2), forward(y))


def planted(model):
    """The mistakes that are easiest to make, by name."""
    unseen = lambda t, before, x: jnp.where(t == 2, -jnp.inf, model.log_g(t, before, x))
    return {
        "y_0 counted twice": {"log_g0": lambda x: 2 * model.log_g0(0, x)},
        "NaN as likelihood 0": {"log_g": unseen},
        "transition of the time before": {
            "kernel": lambda key, t, x: model.kernel(key, t - 1, x)
        },
        "observation of the time before": {
            "log_g": lambda t, before, x: model.log_g(t - 1, before, x)
        },
        "likelihood of the state before": {
            "log_g": lambda t, before, x: model.log_g(t, before, before)
        },
    }


@pytest.mark.parametrize("name", planted(finite_model()))
def test_planted_mistakes_are_caught(name):
    model = finite_model()
    wrong = changed(model, **planted(model)[name])
    assert_caught(bi.particle_filter(wrong, 2), forward(Y))


def test_path_density_is_that_of_the_model():
    path = np.array([1, 0, 1])
    moves = MOVES[1, 1, 0] + MOVES[2, 0, 1]
    expected = FIRST[1] + SEEN[1, 2] + moves + SEEN[0, 0]
    with jax.enable_x64(True):
        assert finite_model().log_density(jnp.asarray(path)) == pytest.approx(expected)


# ---------------------------------------------------------------- densities

NAN = np.nan
COVARIANCE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.5]])
MEAN = np.array([0.5, -1.0, 2.0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seen", [[0], [1, 2], [0, 1, 2], []], ids=str)
def test_what_was_not_seen_is_marginalised(seen):
    y = np.full(3, NAN)
    y[seen] = [0.1, 0.7, -0.4][: len(seen)]
    sds = np.sqrt(np.diag(COVARIANCE))
    alone = stats.norm.logpdf(y[seen], MEAN[seen], sds[seen]).sum()
    for independent in (dist.Normal(MEAN, sds), dist.Normal(MEAN, sds).to_event(1)):
        assert log_likelihood(independent, y) == pytest.approx(alone)
    joint = 0.0
    if seen:
        block = COVARIANCE[np.ix_(seen, seen)]
        joint = stats.multivariate_normal.logpdf(y[seen], MEAN[seen], block)
    found = log_likelihood(dist.MultivariateNormal(MEAN, COVARIANCE), y)
    assert found == pytest.approx(joint)
    # Taking the coordinates for independent ones would be caught.
    assert len(seen) < 2 or abs(alone - joint) > 0.01
    whole = dist.Dirichlet(jnp.ones(3))
    assert log_likelihood(whole, np.full(3, NAN)) == 0.0


def test_densities_know_their_support():
    # NumPyro warns of such values unless they are traced, as they are inside of every filter.
    uniform = jax.jit(lambda x: log_density(dist.Uniform(0.0, 2.0), x))
    assert uniform(3.0) == -np.inf
    assert uniform(1.0) == pytest.approx(-np.log(2))
    assert jax.jit(lambda x: log_density(dist.Exponential(1.0), x))(-1.0) == -np.inf
    assert jax.jit(lambda y: log_likelihood(dist.Poisson(2.0), y))(-1.0) == -np.inf
    both = {"a": dist.Normal(0.0, 1.0), "b": dist.Bernoulli(0.25)}
    expected = stats.norm.logpdf(0.3) + np.log(0.25)
    assert log_density(both, {"a": 0.3, "b": 1}) == pytest.approx(expected)


def test_gradients_pass_what_was_not_seen():
    slope = jax.grad(lambda m: log_likelihood(dist.Gamma(m, 1.0), jnp.asarray([NAN, 2.0])))
    assert np.isfinite(slope(2.0))


def test_prior_on_vectors_is_that_of_the_parameters():
    """Sampler and density of the prior agree (validator, false-alarm rate as it states)."""
    model = bk.StateSpaceModel(
        initial=HMM.initial,
        transition=HMM.transition,
        observation=HMM.observation,
        params={"a": dist.HalfNormal(2.0), "fixed": 3.0, "b": dist.Beta(2.0, 5.0)},
    )
    assert model.free == ("a", "b")
    prior = model.prior
    exact = bk.Target(log_density=prior.log_density, sample_exact=prior.sample_prior)
    bk.validate(exact).raise_if_failed()
    forgotten = bk.Target(
        log_density=lambda z: prior.log_density(z) - z[0], sample_exact=prior.sample_prior
    )
    assert bk.validate(forgotten).verdict == "fail"
    values = model.parameters(jnp.zeros(2))
    assert {name: float(v) for name, v in values.items()} == {"fixed": 3.0, "a": 1.0, "b": 0.5}


# ---------------------------------------------------------------- bad models and data


def like(**changes):
    parts = {
        "initial": lambda p: dist.Normal(0.0, 1.0),
        "transition": lambda p, x, t: dist.Normal(x, 1.0),
        "observation": lambda p, x, t: dist.Normal(x, 1.0),
    }
    return bk.StateSpaceModel(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"initial": 3}, TypeError, "initial must be a function"),
        (
            {"initial": dist.Normal(0.0, 1.0)},
            TypeError,
            "returns a distribution, got a Normal itself: write lambda params: ...",
        ),
        ({"transition": lambda p, x: x}, TypeError, "transition must take"),
        ({"params": {"a": "text"}}, TypeError, r"params\['a'\] must be a number"),
        ({"params": {"a": np.inf}}, ValueError, r"params\['a'\] must be finite"),
        ({"params": {"k": dist.Poisson(2.0)}}, ValueError, "prior of 'k' is discrete"),
        (
            {"params": {"k": dist.ImproperUniform(dist.constraints.real, (), ())}},
            ValueError,
            "prior of 'k' is improper",
        ),
    ],
)
def test_models_that_cannot_be(changes, error, message):
    with pytest.raises(error, match=message):
        like(**changes)


@pytest.mark.parametrize(
    ("changes", "rows", "error", "message"),
    [
        ({}, Rows(np.zeros((5, 1))), InvalidDataError, r"shape \(num_steps,\).*\(5, 1\)"),
        (
            {"initial": lambda p: 0.0},
            Rows(np.zeros(5)),
            TypeError,
            "initial must return a NumPyro distribution.*got float",
        ),
        (
            {"transition": lambda p, x, t: x + 1.0},
            Rows(np.zeros(5)),
            TypeError,
            r"transition must return a NumPyro distribution.*got an array of shape \(\)",
        ),
        (
            {"observation": lambda p, x, t: {"y": dist.Normal(x, 1.0)}},
            Rows(np.zeros(5)),
            TypeError,
            "observation must return a NumPyro distribution, got dict",
        ),
        (
            {"observation": lambda p, x, t: dist.Normal(x, p["noise"])},
            Rows(np.zeros(5)),
            UnknownParameterError,
            "uses a parameter 'noise', but params has none",
        ),
        (
            {"transition": lambda p, x, t: dist.Normal(jnp.stack([x, x]), 1.0)},
            Rows(np.zeros(5)),
            ValueError,
            r"initial draws a state of shape \(\) and transition one of shape \(2,\)",
        ),
        (
            {"observation": lambda p, x, t: dist.Poisson(jnp.exp(x))},
            Rows(np.array([1.0, NAN, 0.5])),
            InvalidDataError,
            "whole numbers for Poisson, got 0.5 at time 2",
        ),
        (
            {"observation": lambda p, x, t: dist.Poisson(jnp.exp(x))},
            Rows(np.array([1.0, NAN, -2.0])),
            InvalidDataError,
            "in the support of Poisson, got -2.0 at time 2",
        ),
        (
            {"observation": lambda p, x, t: dist.Beta(jnp.exp(x), 1.0).expand([2])},
            Rows(np.array([[0.5, NAN], [0.5, 1.5]])),
            InvalidDataError,
            "in the support of Beta, got 1.5 at time 1",
        ),
        ({}, Rows(np.zeros(5), np.zeros((5, 1))), InvalidDataError, "X was given, but no func"),
        (
            {"observation": lambda p, x, t: dist.Dirichlet(jnp.ones(2))},
            Rows(np.array([[0.5, 0.5], [0.2, NAN]])),
            InvalidDataError,
            "missing coordinates at time 1, and those of Dirichlet depend on one another",
        ),
        (
            {"transition": lambda p, x, t, u: dist.Normal(x + u, 1.0)},
            Rows(np.zeros(5)),
            InvalidDataError,
            r"transition takes u, so give controls: fit\(X=...\)",
        ),
        (
            {"transition": lambda p, x, t, dt: dist.Normal(x, dt)},
            Rows(np.zeros(5)),
            InvalidDataError,
            r"transition takes dt, so give times: fit\(times=...\)",
        ),
    ],
)
def test_data_that_do_not_fit(changes, rows, error, message):
    with pytest.raises(error, match=message):
        StateSpaceTarget.of(like(**changes), rows)


def test_a_support_that_depends_on_the_state_is_left_to_the_filter():
    model = like(observation=lambda p, x, t: dist.Uniform(x - 1.0, x + 1.0))
    StateSpaceTarget.of(model, Rows(np.array([0.0, 1e6])))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"transition": lambda p, x, t: dist.Delta(p["a"] * x)}, True),
        ({"initial": lambda p: dist.Delta(p["a"])}, True),
        # The second of two lags only remembers the first.
        (
            {
                "initial": lambda p: {"x": dist.Normal(0.0, 1.0), "lag": dist.Delta(0.0)},
                "transition": lambda p, x, t: {
                    "x": dist.Normal(p["a"] * x["lag"], 1.0),
                    "lag": dist.Delta(x["x"]),
                },
                "observation": lambda p, x, t: dist.Normal(x["x"], 1.0),
            },
            False,
        ),
    ],
)
def test_parameters_that_a_path_would_hold_fast(changes, expected):
    model = like(params={"a": dist.Normal(0.0, 1.0)}, **changes)
    target = StateSpaceTarget.of(model, Rows(np.zeros(5)))
    assert model.is_rigid(target.rows) is expected
    if expected:
        with pytest.raises(MissingDensityError, match="given a path they cannot move"):
            bk.ParticleGibbs().run(target)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="must be a StateSpaceModel or a FeynmanKac, got int"):
        StateSpaceTarget.of(3, None)
    with pytest.raises(InvalidDataError, match="holds its data already"):
        StateSpaceTarget.of(finite_model(), Rows(np.zeros(3)))


# ---------------------------------------------------------------- error of a long run


def test_windowed_lineage_tells_the_error_of_a_long_run():
    """The estimated variance is that of many runs, where one founder is left of all.

    300 nearly normal log evidences: their variance has a standard error of 8 %, the mean of
    the estimates of about 5 %; bounds are five of both together.
    """
    chain = fm.random_chain(num_states=4, num_steps=800, seed=6, guided=False)
    model, num_particles = fm.last_state_model(chain), 64
    step = bi.resample(ess_below=0.9) >> bi.extend(model.kernel, model.log_g)
    start = bi.spawn(model.initial, num_particles)

    @jax.jit
    @jax.vmap
    def both(key):
        first, weighing, rest = jax.random.split(key, 3)
        population, _ = start.run(first)
        found = []
        for lineage in (WindowedLineage, bi.Lineage):
            now = population._replace(lineage=lineage.founders(num_particles))
            now, _ = bi.weigh(model.log_g0).run(weighing, now)
            now, _ = bi.scan(step).run(rest, now)
            found.append(now.lineage.total_variance)
        return now.log_evidence, *found

    keys = jax.random.split(accel.as_key(5), 300)
    log_evidence, windowed, plain = (np.asarray(v, np.float64) for v in both(keys))
    assert 0.55 < windowed.mean() / log_evidence.var() < 1.6
    # Where one founder is left of all, there is nothing to compare, and 1 is all it can say.
    assert plain.mean() / log_evidence.var() < 0.5
