"""Proposals of state-space models, enumerated, and as every engine uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from sklearn.base import clone

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import InvalidDataError
from bayeskit.inference import guiding
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import StateSpaceTarget
from bayeskit.validation.exact import Atoms
from tests.inference import finite_models as fm
from tests.inference.finite_models import assert_caught, assert_exact

# ---------------------------------------------------------------- a finite model, enumerated

RNG = np.random.default_rng(5)
FIRST = np.log(RNG.dirichlet(np.ones(2)))
MOVES = np.log(RNG.dirichlet(np.ones(2), (3, 2)))
SEEN = np.log(RNG.dirichlet(np.ones(3), 2))
# One table for each observation: the proposal looks at it.
FIRST_PROPOSAL = np.log(RNG.dirichlet(np.ones(2), 3))
PROPOSAL = np.log(RNG.dirichlet(np.ones(2), (3, 3, 2)))
Y = np.array([2.0, np.nan, 0.0])


def whole(y):
    return jnp.asarray(y, jnp.int32)


GUIDED = bk.StateSpaceModel(
    initial=lambda p: dist.Categorical(logits=fm.log_table(FIRST)),
    transition=lambda p, x, t: dist.Categorical(logits=fm.log_table(MOVES)[t, x]),
    observation=lambda p, x, t: dist.Categorical(logits=fm.log_table(SEEN)[x]),
    proposal=lambda p, x, t, y: dist.Categorical(logits=fm.log_table(PROPOSAL)[t, whole(y), x]),
    initial_proposal=lambda p, y: dist.Categorical(
        logits=fm.log_table(FIRST_PROPOSAL)[whole(y)]
    ),
)


def paths(y=Y):
    """γ on whole paths, by multiplication."""
    states = np.array(list(np.ndindex(2, 2, 2)), np.int32)
    log_mass = FIRST[states[:, 0]]
    for t, seen in enumerate(y):
        log_mass = log_mass + (MOVES[t, states[:, t - 1], states[:, t]] if t else 0.0)
        log_mass = log_mass + (0.0 if np.isnan(seen) else SEEN[states[:, t], int(seen)])
    return Atoms(states, np.exp(log_mass))


def smoothed(model, smoother=bi.genealogy, **options):
    filtered = bi.particle_filter(model, 2, history=True, ess_below=0.7)
    return filtered >> smoother(model, **options)


def guided(y=Y):
    return StateSpaceTarget.of(GUIDED, Rows(y)).feynman_kac()


@pytest.mark.parametrize("y", [Y, np.array([np.nan, 1.0, 2.0])], ids=["middle", "first"])
def test_a_guided_filter_is_exact(y):
    """Where nothing was seen the transition is taken, at the first time as well."""
    assert_exact(smoothed(guided(y)), paths(y))


def test_paths_drawn_backwards_are_exact():
    assert_exact(smoothed(guided(), bi.backward_sampling, num=1), paths())


def test_path_density_is_that_of_the_model():
    expected = paths()
    with jax.enable_x64(True):
        found = jax.vmap(guided().log_density)(jnp.asarray(expected.state))
    np.testing.assert_allclose(np.exp(found), expected.mass, rtol=1e-12)


class Unweighed(guiding.StateMove):
    """Planted (70): no m / q."""

    def log_ratio(self, x):
        return 0.0


class Inverted(guiding.StateMove):
    """Planted: q / m."""

    def log_ratio(self, x):
        return -super().log_ratio(x)


class WeighedWhereUnseen(guiding.StateMove):
    """Planted: m / q of the proposal, where the transition was drawn from."""

    def log_ratio(self, x):
        return guiding.StateMove(self.model, self.proposed, True).log_ratio(x)


@pytest.mark.parametrize("mistake", [Unweighed, Inverted, WeighedWhereUnseen])
def test_wrong_weights_are_caught(mistake, monkeypatch):
    monkeypatch.setattr("bayeskit.inference.state_space.StateMove", mistake)
    assert_caught(smoothed(guided()), paths())


def test_a_backward_law_of_the_transition_alone_is_caught():
    """Planted: paths drawn backwards by m, with the potential of the guided filter left in."""
    model = guided()
    model.log_m = lambda t, before, x: fm.log_table(MOVES)[t, before, x]
    assert_caught(smoothed(model, bi.backward_sampling, num=1), paths())


# ---------------------------------------------------------------- in the engines

NOISE = 0.1
DATA = np.array(
    [0.4, np.nan, 1.3, 0.9, -0.2, 0.3, 1.8, 2.4, 2.9, 3.6, 2.2, 1.9, 0.7, -0.8, -1.9, -1.2]
)


def optimal(mean, y):
    """The law of a state of variance 1 about a mean, given what is seen of it."""
    gain = 1 / (1 + NOISE**2)
    return dist.Normal(mean + gain * (y - mean), NOISE * jnp.sqrt(gain))


def level(is_guided, rho=0.8):
    proposals = {
        "proposal": lambda p, x, t, y: optimal(p["rho"] * x, y),
        "initial_proposal": lambda p, y: optimal(0.0, y),
    }
    return bk.StateSpaceModel(
        initial=lambda p: dist.Normal(0.0, 1.0),
        transition=lambda p, x, t: dist.Normal(p["rho"] * x, 1.0),
        observation=lambda p, x, t: dist.Normal(x, NOISE),
        params={"rho": rho},
        **(proposals if is_guided else {}),
    )


def log_likelihood(rho, y=DATA):
    """By a Kalman filter."""
    mean, variance, total = 0.0, 1.0, 0.0
    for t, seen in enumerate(y):
        if t:
            mean, variance = rho * mean, rho**2 * variance + 1.0
        if not np.isnan(seen):
            spread = variance + NOISE**2
            total += -0.5 * (np.log(2 * np.pi * spread) + (seen - mean) ** 2 / spread)
            gain = variance / spread
            mean, variance = mean + gain * (seen - mean), variance * (1 - gain)
    return total


def test_the_best_proposal_leaves_little_noise():
    """The estimate of 500 particles within 0.1; its sd is 0.02, so false alarms are 1e-6."""
    engine = bk.ParticleFilter(500)
    est = bk.BayesianModel(level(True), inference=engine, random_state=0).fit(DATA)
    plain = bk.BayesianModel(level(False), inference=engine, random_state=0).fit(DATA)
    assert abs(est.log_evidence_ - log_likelihood(0.8)) < 0.1
    assert est.log_evidence_se_ < 0.05 < 2 * plain.log_evidence_se_
    fewest = lambda e: e.result_.history["effective_sample_size"].min()
    assert fewest(est) > 2 * fewest(plain)
    assert est.smooth(20).shape == (16, 5)
    online = clone(est)
    for row in DATA:
        online.partial_fit(row)
    assert online.log_evidence_ == est.log_evidence_
    # What is to come has not been seen: a forecast follows the transition.
    assert est.forecast(2).states["sd"].iloc[0] == pytest.approx(1.0, abs=0.2)


@pytest.mark.filterwarnings("ignore::bayeskit.errors.ConvergenceWarning")
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(
            bk.SMC2(num_parameters=300, num_particles=20), marks=pytest.mark.slow, id="SMC2"
        ),
        bk.ParticleGibbs(num_particles=10, num_draws=500, num_warmup=150),
    ],
    ids=lambda engine: type(engine).__name__,
)
def test_posterior_of_a_guided_model(engine):
    """Mean within 6 standard errors, for at least 150 effective draws: false alarms 1e-8."""
    model = level(True, dist.Uniform(-1.0, 1.0))
    est = bk.BayesianModel(model, inference=engine, random_state=1).fit(DATA)
    grid = np.linspace(-1, 1, 801)[1:-1]
    mass = np.exp([log_likelihood(rho) for rho in grid])
    mass /= mass.sum()
    mean = mass @ grid
    sd = np.sqrt(mass @ (grid - mean) ** 2)
    assert est.summary().loc["rho", "ess_bulk"] > 150
    assert abs(est.result_.mean("rho") - mean) < 6 * sd / np.sqrt(150)
    # The prior would be caught.
    assert abs(0.0 - mean) > 6 * sd / np.sqrt(150)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"proposal": 3}, TypeError, "proposal must be a function"),
        ({"proposal": lambda p, x, t: x}, TypeError, r"proposal must take \(params, x, t, y\)"),
        (
            {"initial_proposal": dist.Normal(0.0, 1.0)},
            TypeError,
            r"got a Normal itself: write lambda params, y: ...",
        ),
        ({"proposal": lambda p, x, t, y: y}, TypeError, "got an array of shape"),
        (
            {"proposal": lambda p, x, t, y: dist.Normal(x, 1.0).expand([2])},
            ValueError,
            r"of shape \(\) and proposal one of shape \(2,\)",
        ),
        (
            {"initial_proposal": lambda p, y, u: dist.Normal(y, 1.0)},
            InvalidDataError,
            "initial_proposal takes u, so give controls",
        ),
    ],
)
def test_proposals_that_cannot_be(changes, error, message):
    parts = {name: getattr(level(True), name) for name in ("initial", "transition")}
    parts["observation"] = lambda p, x, t: dist.Normal(x, NOISE)
    build = lambda: bk.StateSpaceModel(**parts, **changes, params={"rho": 0.8})
    with pytest.raises(error, match=message):
        StateSpaceTarget.of(build(), Rows(DATA))
