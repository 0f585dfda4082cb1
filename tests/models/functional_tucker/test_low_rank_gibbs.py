"""Gibbs sweeps of multilinear models, checked by the validator, and predictions from draws."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.gp_kernels import (
    Constant,
    FreeParameters,
    IntegratedWiener,
    Linear,
    LogNormal,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    chain_of,
)
from bayeskit.models.base import precision_scope
from bayeskit.models.functional_tucker.additive import additive_design
from bayeskit.models.functional_tucker.low_rank.additive_part import additive_part
from bayeskit.models.functional_tucker.low_rank.bridges import draw_between, moments_between
from bayeskit.models.functional_tucker.low_rank.data import tensor_data
from bayeskit.models.functional_tucker.low_rank.draws import (
    functions_at,
    predictive,
    sample_rows,
)
from bayeskit.models.functional_tucker.low_rank.gibbs import run_gibbs, starting_state
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.low_rank.moves import TensorMoves, amplitudes
from bayeskit.models.functional_tucker.low_rank.noise import Gamma, NoisePrior
from bayeskit.models.functional_tucker.low_rank.posterior import (
    Prior,
    TensorPosterior,
    draw_gamma,
)
from bayeskit.validation import Level, validate

sys.path.insert(0, str(Path(__file__).parent))
import tiny

# One stage of the smallest size that the validator runs, and a second one in case of doubt.
_LEVEL = Level(num_stages=2, growth=4, first=20_000, num_frequencies=4)
# Of what runs each time: the same programs on fewer paths.
_QUICK = Level(num_stages=2, growth=4, first=5_000, num_frequencies=4)


# ---------------------------------------------------------------- the sweep keeps the posterior


def report(core, level=_LEVEL, **parts):
    """Geweke's test of one sweep; false alarms at most 1e-6."""
    return validate(
        tiny.sweep_of(core, **parts),
        start=functools.partial(tiny.simulate, core),
        observed=functools.partial(tiny.observed, core),
        level=level,
        num_steps=1,
    )


class PermutedCore(TensorPosterior):
    """The second mode sees the core with its axes in the other order."""

    def sites(self, state, mode, power=1.0):
        if mode == 1:
            state = {**state, "core": state["core"].reshape(self.layout.ranks[::-1]).T}
        return super().sites(state, mode, power)


class StaleCore(TensorPosterior):
    """The modes are drawn given the mean of the core, not the core as it is."""

    def sites(self, state, mode, power=1.0):
        return super().sites({**state, "core": 0.5 * state["core"]}, mode, power)


class NotRedrawn(TensorMoves):
    """Hyper-parameters move with the functions integrated out, which then stay as they were."""

    def mode(self, mode, state, key, power):
        name = f"mode_{mode}"
        first, second = random.split(key)
        drawn = super().mode(mode, state, first, power)
        moved = super().mode(mode, drawn, second, power)
        return {**drawn, name: {**drawn[name], "u": moved[name]["u"]}}


class ScaleForRate(TensorMoves):
    """The rate of a Gamma law is taken for its scale."""

    def precision(self, state, key, power):
        p = self.posterior
        weights = p.row_precision({**state, "precision": 1.0}, power)
        rate = 0.4 + 0.5 * jnp.sum(weights * p.errors(state) ** 2)
        shape = 4.0 + 0.5 * jnp.sum(p.data.weight)
        return {**state, "precision": draw_gamma(key, Gamma(shape, 1.0 / rate))}


class AmplitudesFromPrior(TensorMoves):
    """Amplitudes of other modes move as if the functions of this one were known."""

    def _sliced(self, key, u, log_likelihood):
        return super()._sliced(key, u, lambda values: 0.5 * log_likelihood(values))


def test_a_sweep_keeps_the_posterior_of_a_full_core():
    """Unequal ranks, Student-t noise, a constant, a repeated and an unobserved row."""
    report("full", _QUICK).raise_if_failed()


def test_a_scale_taken_for_a_rate_is_caught():
    assert report("full", _QUICK, moves=ScaleForRate).verdict == "fail"


@pytest.mark.slow
@pytest.mark.parametrize("core", ["full", "diagonal"])
def test_a_sweep_keeps_the_posterior_on_many_paths(core):
    report(core).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "parts"),
    [
        ("full", {"posterior": PermutedCore}),
        ("full", {"posterior": StaleCore}),
        ("full", {"moves": NotRedrawn}),
        ("diagonal", {"moves": NotRedrawn}),
        ("diagonal", {"moves": AmplitudesFromPrior}),
    ],
)
def test_planted_bugs_are_caught(core, parts):
    assert report(core, **parts).verdict == "fail"


@pytest.mark.slow
def test_prior_draws_are_those_of_the_formulas():
    """False alarms at most 1e-6."""
    layout, prior, data = tiny.tiny_model("full")
    posterior = TensorPosterior(layout, prior, data)

    def step(key, state):
        return {"y": state["y"], "parts": posterior.draw_prior(key)}

    validate(
        step,
        start=functools.partial(tiny.simulate, "full"),
        observed=lambda state: tiny.observed("full", {**state, "y": data.y}),
        level=_LEVEL,
        num_steps=1,
    ).raise_if_failed()


@pytest.mark.parametrize(
    "kernel",
    [
        Matern12(LogNormal(1.0), LogNormal(0.5)),
        2.0 * Matern32(LogNormal(1.0), 0.5) + Periodic(LogNormal(1.0), 1.0, LogNormal(1.0)),
        Matern52(LogNormal(1.0), 0.5) * Linear(LogNormal(1.0)) + Constant(LogNormal(1.0)),
        IntegratedWiener(LogNormal(1.0), LogNormal(1.0), lengthscale=1.0),
    ],
)
def test_amplitudes_leave_states_alone(kernel):
    """A learned number is an amplitude if and only if the law of states does not change."""
    free = FreeParameters.of((kernel,))

    def law(u):
        (filled,) = free.fill(u)
        x, gap = jnp.asarray(0.3), jnp.asarray(0.4)
        parts = filled.covariance_at(x), filled.transition(x, gap), filled.process_noise(x, gap)
        return np.concatenate([np.asarray(part).ravel() for part in parts])

    zero = np.zeros(free.num_free)
    same = [np.array_equal(law(zero), law(unit)) for unit in np.eye(free.num_free)]
    expected = tuple(int(i) for i in np.flatnonzero(same))
    # Weights of harmonics depend on a length scale; states do not.
    length = tuple(i for i, name in enumerate(free.names) if name.endswith("lengthscale"))
    assert amplitudes(free) == tuple(i for i in expected if i not in length)


# ---------------------------------------------------------------- between known states


def dense_bridge(kernel, x, states, new):
    """Condition the joint covariance of all states, with a pseudo-inverse."""
    every = np.unique(np.concatenate([x, new]))
    chain = chain_of(kernel, jnp.asarray(every), jnp.asarray(np.diff(every)))
    steps, dim, num = chain.states, kernel.dim, len(every)
    A, Q = np.asarray(steps.transition), np.asarray(steps.covariance)
    diagonal = [np.asarray(steps.initial_covariance)]
    for a, q in zip(A, Q, strict=True):
        diagonal.append(a @ diagonal[-1] @ a.T + q)
    full = np.zeros((num, dim, num, dim))
    for i, block in enumerate(diagonal):
        for j in range(i, num):
            block = A[j - 1] @ block if j > i else block
            full[j, :, i], full[i, :, j] = block, block.T
    known, wanted = np.searchsorted(every, x), np.searchsorted(every, new)
    H = np.stack([np.asarray(kernel.observation(jnp.asarray(z))) for z in new])
    cross = np.einsum("pd,pdqe->pqe", H, full[wanted][:, :, known]).reshape(len(new), -1)
    prior = np.einsum("pd,pdqe,qe->pq", H, full[wanted][:, :, wanted], H)
    size = len(x) * dim
    among = full[known][:, :, known].reshape(size, size)
    gain = cross @ np.linalg.pinv(among, rcond=1e-13, hermitian=True)
    return gain @ states.reshape(-1), prior - gain @ cross.T


@pytest.mark.parametrize("kernel", [Matern12(1.3, 0.7), Matern32(1.3, 0.7), Matern52(1.3, 0.7)])
def test_functions_between_known_states_are_exact(kernel):
    """Left, right, between, on and a hair beside known coordinates: moments and joint draws."""
    rng = np.random.default_rng(0)
    with precision_scope("float64"):
        x = np.array([0.0, 0.4, 1.1, 1.9, 2.0])
        states = rng.normal(size=(5, kernel.dim))
        beside = [x[2], x[1] + 1e-13, x[3] - 1e-9]
        new = np.sort([-1.0, -0.5, 0.1, 0.2, 1.5, *beside, 2.5, 3.0, 1e6])
        mean, covariance = dense_bridge(kernel, x, states, new)
        padded, more = (
            np.append(x, [x[-1]] * 3),
            np.concatenate([states, states[-1:].repeat(3, 0)]),
        )
        found = jax.jit(moments_between)((kernel,), padded, more, new)
        np.testing.assert_allclose(found[0][:, 0], mean, atol=1e-9)
        np.testing.assert_allclose(found[1][:, 0], np.diag(covariance), atol=1e-9)
        # Draws are linear in the normals: the map gives the covariance without sampling.
        shape = (len(new), 1, 2, kernel.dim)
        draw = jax.jit(jax.vmap(draw_between, (None, None, None, None, 0)))
        units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
        both = draw((kernel,), padded, more, new, np.concatenate([units, 0 * units[:1]]))
        *root, zero = np.asarray(both)[..., 0]
        root = np.array(root) - zero
    np.testing.assert_allclose(zero, mean, atol=1e-9)
    np.testing.assert_allclose(root.T @ root, covariance, atol=1e-9)


def test_processes_without_noise_pass_through_their_states():
    kernel = Periodic(1.0, 1.0, 1.0)
    with precision_scope("float64"):
        x = np.array([0.0, 0.3, 0.45])
        chain = chain_of(kernel, jnp.asarray(x), jnp.asarray(np.diff(x)))
        first = np.linspace(-1, 1, kernel.dim)
        states = [first]
        for a in np.asarray(chain.states.transition):
            states.append(a @ states[-1])
        new = np.array([-0.2, 0.1, 0.4, 5.0])
        mean, variance = jax.jit(moments_between)((kernel,), x, np.stack(states), new)
        at = jax.jit(lambda z: kernel.observation(z) @ kernel.transition(0.0, z))
        expected = [at(z) @ first for z in new]
    np.testing.assert_allclose(mean[:, 0], expected, atol=1e-9)
    np.testing.assert_allclose(variance, 0.0, atol=1e-9)


# ---------------------------------------------------------------- chains and predictions

_RANKS = (1, 2)


def simulated(seed, num=80, num_new=60):
    """Data from a model of ranks (1, 2) with a constant; all seeds share one program."""
    rng = np.random.default_rng(seed)
    table = np.stack([rng.integers(0, n, num + num_new) for n in (12, 10)], axis=1) / 10.0
    # Some new rows have coordinates that no row of the data has.
    table[num : num + 20, 0] += 0.05
    table[num + 10 : num + 30, 1] -= 0.13
    core = rng.normal(size=_RANKS)
    factors = []
    for column, rank in zip(table.T, _RANKS, strict=True):
        functions = []
        for _ in range(rank):
            std, length = np.exp(0.3 * rng.normal(size=2)) * (1.0, 0.5)
            t = np.sqrt(3.0) * np.abs(np.subtract.outer(column, column)) / length
            K = std**2 * (1.0 + t) * np.exp(-t)
            values, vectors = np.linalg.eigh(K)
            functions.append(
                vectors @ (np.sqrt(np.maximum(values, 0)) * rng.normal(size=len(t)))
            )
        factors.append(np.stack(functions, axis=1))
    f = 3.0 * rng.normal() + np.einsum("ij,ni,nj->n", core, *factors)
    precision = rng.gamma(3.0, 1.0 / 0.3)
    y = f + rng.normal(size=len(f)) / np.sqrt(precision)
    kernel = Matern32(LogNormal(1.0, 0.3), LogNormal(0.5, 0.3))
    design = additive_design((), table[:num])
    prior = Prior(
        tuple(FreeParameters.of((kernel,) * rank) for rank in _RANKS),
        1.0,
        NoisePrior(Gamma(3.0, 0.3)),
        additive_part(design),
    )
    # The grids of all data sets have one size.
    data = tensor_data(table[:num], y[:num])
    return Layout(_RANKS), prior, data, design, table, y


_COUNTS = {"num_draws": 100, "num_warmup": 100, "num_chains": 4, "num_slices": 2}


@pytest.fixture(scope="module")
def fitted():
    with precision_scope("float64"):
        layout, prior, data, design, table, y = simulated(0)
        draws = run_gibbs(layout, prior, data, jax.random.key(0), **_COUNTS)
        yield layout, prior, data, design, table, y, draws


def test_new_observations_are_covered(fitted):
    """90 % intervals cover 85 to 95 % over ten data sets from the model, without a retrace."""
    from scipy import stats

    inside = []
    for seed in range(10):
        layout, prior, data, design, table, y = simulated(seed)
        draws = run_gibbs(layout, prior, data, jax.random.key(seed), **_COUNTS)
        new = table[80:]
        mean, variance = predictive(layout, prior, data, draws, new, design)
        std = np.sqrt(variance + 1.0 / np.asarray(draws.parts["precision"])[:, None])
        # The probability integral transform under the mixture over draws.
        level = stats.norm.cdf(y[80:], mean, std).mean(axis=0)
        inside.append(np.abs(level - 0.5) < 0.45)
    assert 0.85 < np.mean(inside) < 0.95


def test_the_second_run_compiles_nothing_and_is_the_same_for_the_same_key(fitted):
    layout, prior, data, _, _, _, draws = fitted
    with CompileClock() as clock:
        again = run_gibbs(layout, prior, data, jax.random.key(0), **_COUNTS)
    assert clock.num_compiled == 0
    jax.tree.map(np.testing.assert_array_equal, again, draws)


def test_joint_draws_have_the_moments_that_are_predicted(fitted):
    layout, prior, data, design, table, _, draws = fitted
    new = table[80:]
    mean, variance = predictive(layout, prior, data, draws, new, design)
    drawn = sample_rows(layout, prior, data, draws, new, jax.random.key(1), design)
    standard = (drawn - mean) / np.sqrt(variance)
    # Given a draw of the parts, products of functions at new coordinates are nearly normal.
    assert abs(np.mean(standard)) < 0.05
    assert abs(np.mean(standard**2) - 1.0) < 0.1


def test_functions_at_known_coordinates_are_known(fitted):
    layout, prior, data, _, _, _, draws = fitted
    x = np.asarray(data.grids[1].x)
    mean, variance = functions_at(layout, prior, data, draws, 1, x)
    posterior = TensorPosterior(layout, prior, data)
    one = jax.tree.map(lambda part: part[3], draws.parts)
    np.testing.assert_allclose(mean[3], posterior.values(one, 1), atol=1e-12)
    np.testing.assert_allclose(variance, 0.0, atol=1e-12)


@pytest.mark.slow
def test_chains_can_start_from_given_functions(fitted):
    layout, prior, data, design, table, _, draws = fitted
    posterior = TensorPosterior(layout, prior, data)
    last = jax.tree.map(lambda part: part[-1], draws.parts)
    values = [posterior.values(last, k) for k in range(2)]
    start = starting_state(
        layout,
        prior,
        data,
        u=[last[f"mode_{k}"]["u"] for k in range(2)],
        values=values,
        core=last["core"],
        precision=last["precision"],
    )
    for k in range(2):
        np.testing.assert_allclose(posterior.values(start, k), values[k], atol=1e-12)
    counts = {**_COUNTS, "num_warmup": 20}
    again = run_gibbs(layout, prior, data, jax.random.key(5), start=start, **counts)
    new = table[80:]
    mean = [
        predictive(layout, prior, data, one, new, design)[0].mean(axis=0)
        for one in (draws, again)
    ]
    assert np.sqrt(np.mean((mean[0] - mean[1]) ** 2)) < 0.2


# ---------------------------------------------------------------- calibration of a whole fit


class TinyEstimator:
    """Chains of the tiny model, with the manners that the validator expects."""

    def __init__(self, core="full", wrong=False, random_state=0):
        self.core, self.wrong, self.random_state = core, wrong, random_state

    def get_params(self, deep=True):
        return {"core": self.core, "wrong": self.wrong, "random_state": self.random_state}

    def set_params(self, **values):
        vars(self).update(values)
        return self

    def fit(self, X, y):
        with precision_scope("float64"):
            layout, prior, data = tiny.tiny_model(self.core)
            # A likelihood that counts every row twice.
            weight = data.weight * (2.0 if self.wrong else 1.0)
            data = data._replace(y=y, weight=weight)
            counts = {"num_draws": 9, "num_warmup": 60, "num_chains": 11, "thin": 10}
            self.draws_ = run_gibbs(
                layout, prior, data, jax.random.key(self.random_state), num_slices=1, **counts
            )
        return self

    def sample(self, num_draws, random_state=None):
        return {name: np.asarray(value) for name, value in self.named().items()}

    def named(self):
        parts = self.draws_.parts
        return {"precision": parts["precision"], "lengths": parts["mode_1"]["u"]}


def _simulated_for_fit(core, key):
    state = tiny.simulate(core, key)
    parts = state["parts"]
    truth = {"precision": parts["precision"], "lengths": parts["mode_1"]["u"]}
    return truth, (tiny.COORDINATES, state["y"])


def _of_precision_and_data(parameters, arguments):
    """What the data say of the precision, by the spread of a repeated row."""
    y = arguments[1]
    return parameters["precision"] * (y[3] - y[4]) ** 2


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "verdict"), [(False, "pass"), (True, "fail")])
def test_simulation_based_calibration(wrong, verdict):
    """Ranks of the truth among draws of whole chains; false alarms at most 1e-6."""
    found = validate(
        TinyEstimator(wrong=wrong),
        start=functools.partial(_simulated_for_fit, "full"),
        observed=_of_precision_and_data,
        level=Level(num_stages=2, growth=2, first=300, num_frequencies=0),
    )
    assert found.verdict == verdict, found
