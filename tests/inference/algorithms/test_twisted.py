"""Twisted filters, enumerated with any functions; with the right ones nothing varies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import LawMismatch
from bayeskit.inference import law, random
from bayeskit.inference.algorithms.backward_sampling import BackwardSampling
from bayeskit.inference.backward import Exact
from bayeskit.inference.blocks.piloting import Piloted, piloted
from bayeskit.validation import Atoms, enumerate_paths
from tests.inference.finite_models import (
    CAUGHT,
    TOLERANCE,
    assert_caught,
    assert_exact,
    last_state_measure,
    last_state_model,
    log_table,
    path_measure,
    random_chain,
)
from tests.inference.linear_gaussian import (
    LinearGaussian,
    log_errors,
    log_evidences,
    z_of_evidence,
)

CHAIN = random_chain(2, 3, seed=3, guided=False)


MODEL = last_state_model(CHAIN)


def twisted(table, model=MODEL, **changes):
    """The model of the finite chain twisted by a table (T, K) of log psi."""
    initial = lambda: log_table(CHAIN.log_initial) + log_table(table)[0]
    rows = lambda t: log_table(CHAIN.log_transition) + log_table(table)[t]

    def log_kernel_mean(t, before):
        t = jnp.minimum(t, len(table) - 1)
        return jax.nn.logsumexp(rows(t)[before])

    functions = {
        "log_psi": lambda t, x: log_table(table)[t, x],
        "initial": lambda key: random.categorical(key, initial()),
        "kernel": lambda key, t, before: random.categorical(key, rows(t)[before]),
        "log_initial_mean": lambda: jax.nn.logsumexp(initial()),
        "log_kernel_mean": log_kernel_mean,
    }
    return bi.twisted_model(model, **(functions | changes))


ANY = np.log(np.random.default_rng(5).uniform(0.2, 3.0, (3, 2)))


def optimal():
    """The log of what all potentials from time t on are worth, by the backward recursion."""
    psi = [CHAIN.log_potential[2]]
    for t in (1, 0):
        coming = np.logaddexp.reduce(CHAIN.log_transition + psi[0], axis=1)
        psi.insert(0, CHAIN.log_potential[t] + coming)
    return np.stack(psi)


def filtered(model, history=False):
    return bi.particle_filter(model, 2, scheme="multinomial", ess_below=None, history=history)


def test_any_functions_leave_the_measure():
    model = twisted(ANY)
    whole = filtered(model) >> bi.untwist(model)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert whole.law.measure == MODEL.measure.at("T")
    assert whole.explain().splitlines()[-2:] == [
        "at the last time no twist is left to pay back:             stands for γ[T]",
        f"=> L2 properly weighted for γ[T]: {law.PROPERLY_WEIGHTED.statement}",
    ]
    assert_exact(whole, last_state_measure(CHAIN))


SHORT = CHAIN._replace(log_potential=CHAIN.log_potential[:2])


class NotTwisted(Exact):
    """Planted: backwards by the dynamics that the particles did not move by."""

    def draw(self, key, model, *rest):
        return super().draw(key, model.same_paths, *rest)


def test_paths_of_a_twisted_filter_are_those_of_the_model():
    model = twisted(ANY[:2], last_state_model(SHORT))
    for way in (bi.genealogy(model), bi.backward_sampling(model)):
        whole = filtered(model, history=True) >> way
        assert whole.law.measure == model.same_paths.paths
        assert_exact(whole, path_measure(SHORT))
    with pytest.raises(LawMismatch, match=r"starts from γ\[T\], but .* γ twisted\[T\]"):
        filtered(model, history=True) >> bi.backward_sampling(model.same_paths)
    with pytest.raises(ValueError, match="needs the populations of all times"):
        bi.run(filtered(model, True) >> bi.untwist(model) >> bi.genealogy(model.same_paths), 0)
    # Planted: what the first of these refuses.
    wrong = filtered(model, history=True) >> BackwardSampling(model, NotTwisted())
    assert_caught(wrong, path_measure(SHORT))
    with pytest.raises(ValueError, match="untwist needs a model of twisted_model, got γ"):
        bi.untwist(MODEL)


def test_the_right_functions_leave_no_variance():
    whole = filtered(twisted(optimal()))
    nothing = Atoms(np.zeros((1, 1)), np.ones(1))
    with jax.enable_x64(True):
        evidence = enumerate_paths(lambda key, _: whole.run(key)[0].log_evidence, nothing)
    exact = np.log(last_state_measure(CHAIN).mass.sum())
    assert np.abs(evidence.state - exact).max() < TOLERANCE
    # Any others do leave some.
    whole = filtered(twisted(ANY))
    with jax.enable_x64(True):
        evidence = enumerate_paths(lambda key, _: whole.run(key)[0].log_evidence, nothing)
    assert np.abs(evidence.state - exact).max() > CAUGHT


@pytest.mark.parametrize(
    "changes",
    [
        # Planted: what the first draw was given in advance is not paid back.
        {"log_initial_mean": lambda: 0.0},
        # Planted: nor what later draws were given.
        {"log_kernel_mean": lambda t, before: 0.0},
        # Planted: the dynamics look ahead and the potentials do not know it.
        {"log_psi": lambda t, x: 0.0},
        # Planted: the mean is that of the functions of the time before.
        {"log_kernel_mean": lambda t, before: log_table(ANY)[t - 1, before]},
    ],
)
def test_planted(changes):
    assert_caught(filtered(twisted(ANY, **changes)), last_state_measure(CHAIN))


# ---------------------------------------------------------------- learned in a finite world


class CountsThePilot(Piloted):
    """Planted: where the pilot run found more than the last one, its result stands."""

    def run(self, key, population=None):
        pilot_key, run_key = random.split(key)
        pilot, _ = self.build(self.start, True).run(pilot_key)
        last, _ = self.build(self.learn(self.start, pilot), False).run(run_key)
        better = pilot.log_evidence > last.log_evidence
        pilot = pilot._replace(history=None, ancestors=None)
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), pilot, last), {}


def controlled(**changes):
    """The controlled filter of the finite chain: a table of log psi in place of quadratics."""
    model = last_state_model(SHORT)

    def build(table, learning):
        model_now = twisted(table, model, **changes)
        run = filtered(model_now, learning)
        return run if learning else run >> bi.untwist(model_now)

    def learn(table, population):
        visited = population.history.particles[..., None] == jnp.arange(2)
        weights = jnp.exp(population.history.log_weights)
        return jnp.log(0.2 + jnp.sum(weights[..., None] * visited, axis=1))

    return piloted(build, learn, np.zeros((2, 2)), 1, "controlled filter")


def test_what_was_learned_leaves_the_law():
    """All 4096 paths of a pilot run, what it teaches, and the run that counts."""
    whole = controlled()
    assert whole.law.measure.time == "T"
    assert str(whole.law.measure) == "γ[T]"
    assert_exact(whole, last_state_measure(SHORT))
    assert_caught(CountsThePilot(**_fields(whole)), last_state_measure(SHORT))
    # Planted: potentials that do not know what was learned.
    assert_caught(controlled(log_psi=lambda t, x: 0.0), last_state_measure(SHORT))


def _fields(block):
    return {field: getattr(block, field) for field in Piloted.__match_args__}


# ---------------------------------------------------------------- Gaussian dynamics

LINEAR = LinearGaussian(num_steps=10, seed=1)


class NoDeterminant(bi.GaussianDynamics):
    """Planted: the mean of a function under a step lacks its determinant."""

    def log_mean(self, psi, t, before):
        spread = (
            jnp.eye(1) + self.covariance(t) @ psi.curvature[jnp.minimum(t, self.num_steps - 1)]
        )
        return super().log_mean(psi, t, before) + 0.5 * jnp.linalg.slogdet(spread)[1]


def test_twisted_gaussian_steps():
    """The mean of psi under a step, and the mean of a twisted step, by quadrature."""
    with jax.enable_x64(True):
        dynamics = LINEAR.dynamics()
        psi = bi.LogQuadratic(jnp.full((10, 1, 1), 0.7), jnp.full((10, 1), -0.4))
        x = np.linspace(-12, 12, 20001)
        step = np.exp(-0.5 * (x - 0.9 * 1.3) ** 2) / np.sqrt(2 * np.pi)
        tilted = step * np.exp(-0.4 * x - 0.35 * x**2)
        mass = np.trapezoid(tilted, x)
        found = dynamics.log_mean(psi, 1, jnp.asarray([1.3]))
        assert float(found) == pytest.approx(np.log(mass), abs=1e-9)
        wrong = NoDeterminant(**vars(dynamics)).log_mean(psi, 1, jnp.asarray([1.3]))
        assert abs(float(wrong) - np.log(mass)) > CAUGHT
        draw = jax.vmap(lambda key: dynamics.twisted(psi).kernel(key, 1, jnp.asarray([1.3])))
        draws = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))[:, 0]
        mean = np.trapezoid(x * tilted, x) / mass
        sd = np.sqrt(np.trapezoid((x - mean) ** 2 * tilted, x) / mass)
        # 6 standard errors either way: a false alarm in 1e8.
        assert abs(draws.mean() - mean) < 6 * sd / np.sqrt(4000)
        assert abs(draws.std() / sd - 1) < 6 / np.sqrt(8000)


def test_controlled_smc_is_exact_where_all_is_linear():
    """64 particles find the evidence to rounding, where a plain filter is off by 1."""
    whole = bi.controlled_filter(LINEAR.dynamics(), 64, num_iterations=2)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert "then frozen" in whole.explain()
    assert whole.explain().count("stands for γ[T]") == 1
    assert np.abs(log_errors(whole, LINEAR, 20)).max() < 1e-3
    plain = bi.particle_filter(LINEAR.dynamics().model(), 64)
    assert np.abs(log_errors(plain, LINEAR, 20)).max() > 0.1


@pytest.mark.slow
def test_an_unbiased_evidence_where_the_fit_is_wrong():
    """The potential has a corner. |z| < 5.5 over 4000 runs: a false alarm in 2e7."""
    x = np.linspace(-12, 12, 1501)
    step = np.exp(-0.5 * (x - 0.5 * x[:, None]) ** 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    value = np.exp(-np.abs(x - 1.0))
    mass = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * value
    for _ in range(2):
        mass = (mass @ step) * value
    exact = np.log(mass.sum() * (x[1] - x[0]))

    def z_score(kind):
        dynamics = kind(
            initial_mean=jnp.zeros(1),
            initial_covariance=jnp.eye(1),
            mean=lambda t, x: 0.5 * x,
            covariance=lambda t: jnp.eye(1),
            log_potential=lambda t, x: -jnp.abs(x[0] - 1.0),
            num_steps=3,
        )
        block = bi.controlled_filter(dynamics, 12, num_iterations=1)
        return z_of_evidence(log_evidences(block, num_runs=4000) - exact)

    assert abs(z_score(bi.GaussianDynamics)) < 5.5
    assert abs(z_score(NoDeterminant)) > 10


def test_wrong_input():
    with pytest.raises(ValueError, match="num_iterations must be at least 1, got 0"):
        bi.controlled_filter(LINEAR.dynamics(), 10, 0)
    with pytest.raises(ValueError, match=r"num_particles must be at least 3.* got 2"):
        bi.controlled_filter(LINEAR.dynamics(), 2)
