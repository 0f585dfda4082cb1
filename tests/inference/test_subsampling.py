"""A few of the data for all: unbiased gradients, measured biases, and an exact chain."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.inference import law
from bayeskit.inference.data_terms import DifferenceEstimate
from bayeskit.inference.transitions.stochastic_langevin import StochasticLangevin
from bayeskit.validation import Atoms, Enumeration, Level, enumerate_paths

LEVEL = Level(num_stages=2, growth=4, first=20_000, num_frequencies=8)
# Logistic regression through the origin on three data that disagree: a skewed posterior.
COVARIATE, OUTCOME = np.array([0.5, 2.0, 1.5]), np.array([1.0, 1.0, -1.0])
TERMS = bi.DataTerms(
    log_prior=lambda x: -0.5 * x[0] ** 2,
    log_term=lambda x, row: jax.nn.log_sigmoid(row[0] * row[1] * x[0]),
    data=np.stack([COVARIATE, OUTCOME], axis=1),
)
CENTRE = np.array([0.2])
PLACES = np.array([[-0.8], [0.3], [1.9]])


def exact_means(function, states, nodes=0):
    """The exact mean of ``function(key, state)`` at each of some states."""
    means = []
    for state in states:
        found = enumerate_paths(
            function,
            Atoms(np.asarray(state)[None], np.ones(1)),
            Enumeration(quadrature_nodes=nodes),
        )
        means.append(np.tensordot(found.mass, found.state, axes=1))
    return np.array(means)


def full_gradient(places):
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(jax.grad(TERMS.target.density()))(jnp.asarray(places)))


# ---------------------------------------------------------------- estimates


def test_places_are_uniform():
    found = enumerate_paths(
        lambda key, _: bi.draw_indices(key, 3, 2), Atoms(np.zeros((1, 1)), np.ones(1))
    )
    np.testing.assert_allclose(found.mass, np.full(9, 1 / 9), atol=1e-15)
    drawn = np.asarray(bi.draw_indices(jax.random.key(0), 1000, 100_000))
    assert drawn.min() == 0
    assert drawn.max() == 999


@pytest.mark.parametrize(
    ("centre", "order"), [(None, 0), (CENTRE, 0), (CENTRE, 1), (CENTRE, 2)]
)
def test_the_estimate_of_the_likelihood_is_unbiased(centre, order):
    estimate = DifferenceEstimate(TERMS, centre, order)
    means = exact_means(
        lambda key, x: estimate.log_likelihood(x, bi.draw_indices(key, 3, 2)), PLACES
    )
    with jax.enable_x64(True):
        whole = jax.vmap(lambda x: TERMS.target.components(x)[1])(jnp.asarray(PLACES))
    np.testing.assert_allclose(means, whole, atol=1e-12)


class SumForMean(DifferenceEstimate):
    """Planted: the differences of a few data are added up as if they were all."""

    def _combined(self, x, differences):
        return self._expansion(x) + jnp.sum(differences)


class ForgottenSlope(DifferenceEstimate):
    """Planted: control variates are taken off and not given back."""

    def _expansion(self, x):
        return jnp.zeros(())


def gradients(estimate):
    return exact_means(StochasticLangevin(estimate, 2, None).gradient, PLACES)


def test_gradients_are_unbiased():
    whole = full_gradient(PLACES)
    for centre in (None, CENTRE):
        steps = bi.sgld(TERMS, 2, centre=centre)
        np.testing.assert_allclose(gradients(steps.estimate), whole, atol=1e-12)
    for wrong in (
        SumForMean(TERMS),
        SumForMean(TERMS, CENTRE, 1),
        ForgottenSlope(TERMS, CENTRE),
    ):
        assert np.abs(gradients(wrong) - whole).max() > 0.1


# ---------------------------------------------------------------- stochastic Langevin

Y = np.array([0.3, 1.7, -0.4, 2.4])
NORMAL = bi.DataTerms(
    log_prior=lambda x: jnp.zeros(()), log_term=lambda x, y: -0.5 * (y - x[0]) ** 2, data=Y
)
SPREAD = 0.5  # of the posterior of four data


def langevin(step_size, centre=None):
    tuning = bi.Tuning(np.array(step_size), np.zeros(1), np.array([SPREAD]))
    return bi.sgld(NORMAL, 2, centre=centre, tuning=tuning)


def one_step_on(variance, steps):
    """Mean and variance after one step from a normal law about the posterior mean."""

    def moments(key, _):
        start_key, step_key = bi.random.split(key)
        x = Y.mean() + jnp.sqrt(variance) * bi.random.normal(start_key, (1,))
        away = steps.step(step_key, x)[0][0] - Y.mean()
        return jnp.stack([away, away**2])

    # Polynomials of degree 2 in normal numbers: two nodes are exact.
    mean, square = exact_means(moments, np.zeros((1, 1)), nodes=2)[0]
    assert abs(mean) < 1e-12
    return square


def stationary_variance(step_size, gradient_variance):
    """Of x' = (1 - h²/2) x + h²/2 s² (noise of the gradient) + h s (normal noise)."""
    contraction = 1 - step_size**2 / 2
    noise = step_size**2 * SPREAD**2 + step_size**4 / 4 * SPREAD**4 * gradient_variance
    return noise / (1 - contraction**2)


@pytest.mark.parametrize("step_size", [0.2, 0.8])
def test_what_stochastic_langevin_leaves_invariant(step_size):
    """On a normal model its stationary law is known, and its bias with it."""
    noisy = stationary_variance(step_size, len(Y) ** 2 * Y.var() / 2)
    assert one_step_on(noisy, langevin(step_size)) == pytest.approx(noisy, rel=1e-10)
    # All terms have one curvature here, so that control variates leave no noise at all.
    quiet = SPREAD**2 / (1 - step_size**2 / 4)
    controlled = langevin(step_size, centre=np.array([0.1]))
    assert one_step_on(quiet, controlled) == pytest.approx(quiet, rel=1e-10)
    assert noisy > quiet > SPREAD**2


class WholeStep(StochasticLangevin):
    """Planted: the drift takes the whole of h² in place of its half."""

    def gradient(self, key, x):
        return 2.0 * super().gradient(key, x)


def test_a_drift_of_the_wrong_size_is_caught():
    right = langevin(0.8, centre=np.array([0.1]))
    wrong = WholeStep(right.estimate, 2, right.on, right.tuning)
    quiet = SPREAD**2 / (1 - 0.8**2 / 4)
    assert abs(one_step_on(quiet, wrong) / quiet - 1) > 0.1


def test_the_validator_measures_the_bias():
    """It never says "fail" of an approximation, and sees that a larger step is worse."""
    sizes, biases = (1.2, 0.9), []
    for size in sizes:
        steps = langevin(size, centre=np.array([0.1]))
        assert steps.law_kind is law.CONSISTENT
        report = bk.validate(
            steps,
            start=lambda key: Y.mean() + SPREAD * bi.random.normal(key, (1,)),
            level=LEVEL,
        )
        assert report.verdict == "inconclusive"
        assert "the kernel is approximate" in report.worst
        biases.append(one_step_on(SPREAD**2, steps) / SPREAD**2 - 1)
    # One step from the target is wrong by h⁴/4.
    np.testing.assert_allclose(biases, np.array(sizes) ** 4 / 4, rtol=1e-6)
    assert "an approximation, never rejected" in steps.explain()


# ---------------------------------------------------------------- energy-conserving subsampling

# An expansion far from the mode, so that a wrong use of what it leaves over shows.
FAR = np.array([2.5])
CHAIN = bi.subsampling_hmc(
    TERMS,
    2,
    FAR,
    kernel=bi.HMC(trajectory=1.0),
    tuning=bi.Tuning(np.array(0.7), np.zeros(1), np.ones(1)),
    num_blocks=2,
)
SUBSETS = np.array(list(itertools.product(range(3), repeat=2)))
ESTIMATE = DifferenceEstimate(TERMS, FAR)


def log_joint(x, indices):
    return TERMS.log_prior(x) + ESTIMATE.corrected(x, indices)


def joint_atoms():
    """The perturbed target on three places and all subsets."""
    x, u = np.repeat(PLACES, 9, axis=0), np.tile(SUBSETS, (3, 1))
    with jax.enable_x64(True):
        mass = np.exp(np.asarray(jax.vmap(log_joint)(jnp.asarray(x), jnp.asarray(u))))
    return Atoms({"x": x, "indices": u.astype(np.int32)}, mass)


def subset_moves(blocks):
    block = dict(blocks)["indices"]
    return bi.gibbs(CHAIN.measure, indices=block)


def test_moves_of_the_subset_exactly():
    assert CHAIN.law_kind is law.INVARIANT
    moves = subset_moves(CHAIN.blocks)
    bk.validate(moves, law="reversible", start=joint_atoms()).raise_if_failed()


def test_a_subset_that_is_judged_without_the_correction_is_caught(monkeypatch):
    monkeypatch.setattr(DifferenceEstimate, "corrected", DifferenceEstimate.log_likelihood)
    wrong = subset_moves(bi.subsampling_hmc(TERMS, 2, FAR, num_blocks=2).blocks)
    monkeypatch.undo()
    atoms = joint_atoms()
    monkeypatch.setattr(DifferenceEstimate, "corrected", DifferenceEstimate.log_likelihood)
    assert bk.validate(wrong, start=atoms).verdict == "fail"


GRID = np.linspace(-6.0, 8.0, 4001)


def table(order=2, centre=FAR):
    """The perturbed target on a grid, (subset, place)."""
    estimate = DifferenceEstimate(TERMS, centre, order)
    one = lambda x, u: TERMS.log_prior(x) + estimate.corrected(x, u)
    with jax.enable_x64(True):
        rows = jax.vmap(lambda u: jax.vmap(lambda x: one(x, u))(jnp.asarray(GRID)[:, None]))(
            jnp.asarray(SUBSETS)
        )
        return np.exp(np.asarray(rows))


def exact_draw():
    """A sampler of the perturbed target, by its distribution function on the grid."""
    density = table()
    share = np.log(density.sum(1))
    below = (np.cumsum(density, axis=1) - 0.5 * density) / density.sum(1, keepdims=True)

    def start(key):
        subset_key, place_key = bi.random.split(key)
        subset = bi.random.categorical(subset_key, jnp.asarray(share, float))
        u = bi.random.uniform(place_key)
        x = jnp.interp(u, jnp.asarray(below, float)[subset], jnp.asarray(GRID, float))
        return {"x": x[None], "indices": jnp.asarray(SUBSETS, jnp.int32)[subset]}

    return start


def test_the_whole_chain():
    """From exact draws of places and subsets: false-alarm rate 1e-6."""
    start = exact_draw()
    bk.validate(CHAIN, start=start, level=LEVEL).raise_if_failed()
    # Planted: trajectories follow the estimate without its correction.
    right = dict(CHAIN.blocks)

    def uncorrected(state):
        log_density = lambda x: (
            TERMS.log_prior(x) + ESTIMATE.log_likelihood(x, state["indices"])
        )
        return bi.transition(bi.HMC(trajectory=1.0), bi.Target(log_density=log_density))

    wrong = bi.gibbs(CHAIN.measure, x=uncorrected, indices=right["indices"])
    assert bk.validate(wrong, start=start, level=LEVEL).verdict == "fail"


def distance(density):
    """Total variation between the marginal in x and the posterior of all data."""
    with jax.enable_x64(True):
        whole = jax.vmap(TERMS.target.density())(jnp.asarray(GRID)[:, None])
    posterior = np.exp(np.asarray(whole))
    marginal = density.sum(0)
    return 0.5 * np.abs(marginal / marginal.sum() - posterior / posterior.sum()).sum()


def test_the_perturbed_target_is_close():
    """Two of three data. Measured: 0.002, and 0.24 without an expansion."""
    close = distance(table(2, CENTRE))

    assert close < 0.005
    assert distance(table(0, None)) > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bi.sgld(TERMS, 0), "num_terms must be a whole number >= 1, got 0"),
        (lambda: bi.subsampling_hmc(TERMS, 1, CENTRE), "num_terms must be a whole number >= 2"),
        (
            lambda: bi.subsampling_hmc(TERMS, 4, CENTRE),
            "num_blocks must be from 1 to num_terms=4",
        ),
        (lambda: bi.sgld(TERMS, 2, centre=[np.nan]), "no finite expansion about centre="),
        (
            lambda: bi.DataTerms(
                log_prior=None, log_term=None, data=(np.zeros(3), np.zeros((2, 1)))
            ),
            "one leading axis of num_data",
        ),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
