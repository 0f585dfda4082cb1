"""Properties of public entries over generated tables, weights and results.

A few fixed examples of each run by default, and many random ones in the slow set. All shapes
are those of a few programs.
"""

import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bayeskit as bk
from bayeskit import accel
from bayeskit.errors import BayeskitWarning
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.inference.gp_kernels import Matern12
from bayeskit.inference.posterior import Posterior
from bayeskit.models.regression import design_matrix
from tests.bad_input import entries

NUM_PARTICLES = 8
NUM_ROWS = 24
NUM_LEARNERS = 4
CHECKS = {}


def holds_for(few, **strategies):
    """Make a test of few fixed examples, and keep the property for the slow set."""

    def decorate(check):
        CHECKS[check.__name__] = given(**strategies)(check)
        fixed = settings(max_examples=few, derandomize=True, deadline=None, database=None)
        return fixed(given(**strategies)(check))

    return decorate


# ------------------------------------------------------------ weights

LOG_WEIGHTS = st.lists(
    st.one_of(
        st.floats(-30, 30, width=32),
        st.sampled_from([-np.inf, 0.0, 1.5, -1e30, -87.5, -100.0, -745.0, 80.0]),
    ),
    min_size=1,
    max_size=NUM_PARTICLES,
).filter(lambda values: max(values) > -1e29)


def padded(values):
    """Weights of zero change nothing, so that one shape serves all."""
    log_weights = np.full(NUM_PARTICLES, -np.inf, np.float32)
    log_weights[: len(values)] = values
    return log_weights


def expected_counts(log_weights, num):
    finite = log_weights.astype(np.float64)
    weights = np.exp(finite - finite.max())
    return num * weights / weights.sum()


def counts_of(log_weights, u, num):
    cumulative = np.asarray(accel.cumulative_offspring(jnp.asarray(log_weights), u, num))
    return np.diff(cumulative, prepend=0)


@holds_for(25, values=LOG_WEIGHTS, u=st.floats(0, 0.96875, width=32))
def test_systematic_counts_are_floor_or_ceil(values, u):
    log_weights = padded(values)
    for num in (NUM_PARTICLES, 1000):
        counts, expected = counts_of(log_weights, u, num), expected_counts(log_weights, num)
        assert counts.sum() == num
        # Weights in single precision may stand on the other side of a whole number.
        slack = 1e-5 * num
        assert (counts >= np.floor(expected - slack)).all()
        assert (counts <= np.ceil(expected + slack)).all()
        assert (counts[np.isneginf(log_weights)] == 0).all()


@holds_for(15, values=LOG_WEIGHTS)
def test_mean_counts_are_num_times_weights(values):
    """Over a grid of 64 offsets the mean is exact but for the ends of the grid."""
    log_weights, num = padded(values), NUM_PARTICLES
    mean = np.mean([counts_of(log_weights, (k + 0.5) / 64, num) for k in range(64)], axis=0)
    np.testing.assert_allclose(mean, expected_counts(log_weights, num), atol=2 / 64)


@holds_for(15, values=LOG_WEIGHTS, scale=st.integers(-64, 64), seed=st.integers(0, 99))
def test_weights_are_scaled_first(values, scale, seed):
    """Multiples of weights give the same ancestors, also with ties, zeros and denormals."""
    # On a grid of eighths sums with whole numbers are exact.
    log_weights = padded(np.maximum(np.round(np.asarray(values) * 8) / 8, -1e4))
    for scheme in entries.SCHEMES:
        found = scheme(accel.as_key(seed), log_weights).index
        other = scheme(accel.as_key(seed), log_weights + np.float32(scale)).index
        np.testing.assert_array_equal(found, other)


# ------------------------------------------------------------ rows of regressions


@holds_for(
    20,
    scale=st.sampled_from([1e-300, 1e-12, -3.0, 1e8, 1e300]),
    shift=st.sampled_from([0.0, 1.0, -1e8]),
    seed=st.integers(0, 99),
)
def test_affine_maps_of_predictors(scale, shift, seed):
    """Scaled predictors do not depend on the unit, to the digits that the shift leaves."""
    x = np.random.default_rng(seed).normal(size=(NUM_ROWS, 2))
    found = design_matrix(scale * (x + shift)).values
    digits = 1e-6 if shift == -1e8 else 1e-9
    np.testing.assert_allclose(found, np.sign(scale) * design_matrix(x).values, atol=digits)


@holds_for(10, scale=st.sampled_from([1e-12, 3.0, 1e6]), shift=st.sampled_from([0.0, -1e6]))
def test_units_of_regressions_on_predicted_labels(scale, shift):
    """Coefficients and their errors follow the unit of a covariate."""
    x = entries.X
    plain = entries.dsl().coef_[1:], entries.dsl().se_[1:]
    moved = entries.dsl(X=scale * (x + shift))
    for found, expected in zip((moved.coef_[1:], moved.se_[1:]), plain, strict=True):
        np.testing.assert_allclose(scale * found, expected, rtol=1e-5)


# ------------------------------------------------------------ series


def gp(x, y, noise_std=None):
    """A process with fixed hyper-parameters: nothing is learned."""
    noise = 0.3 if noise_std is None else 0
    model = bk.MarkovGPRegressor(Matern12(1.2, 0.8), noise=noise, mean=0.0, progress=False)
    return model.fit(x, y, noise_std=noise_std)


SERIES = {
    "gaps": st.lists(st.sampled_from([0.0, 1e-9, 0.1, 0.7, 3.0, 1e9]), min_size=2, max_size=14),
    "missing": st.floats(0, 1),
    "seed": st.integers(0, 10_000),
}


def series(gaps, missing, seed):
    generator = np.random.default_rng(seed)
    x = np.cumsum(gaps)
    y = np.where(generator.random(len(x)) < missing, np.nan, generator.normal(size=len(x)))
    y[0] = 0.5
    return x, y, generator


@holds_for(10, **SERIES)
def test_order_and_missing_rows_leave_the_evidence(gaps, missing, seed):
    x, y, generator = series(gaps, missing, seed)
    expected = gp(x, y).log_evidence_
    order = generator.permutation(len(x))
    assert gp(x[order], y[order]).log_evidence_ == pytest.approx(expected, abs=1e-8)
    more = np.append(x, x[-1] + 0.5), np.append(y, np.nan)
    assert gp(*more).log_evidence_ == pytest.approx(expected, abs=1e-8)
    seen = ~np.isnan(y)
    assert gp(x[seen], y[seen]).log_evidence_ == pytest.approx(expected, abs=1e-8)


@holds_for(10, place=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_a_series_splits_at_an_observed_instant(place, seed):
    """What a Markov process is known to be at once parts the past from the future."""
    generator = np.random.default_rng(seed)
    x = np.cumsum(generator.uniform(0.2, 1.0, 14))
    y = generator.normal(size=14)
    # Observed all but exactly; the error is of the order of its variance.
    whole = gp(x, y, noise_std=1e-5).log_evidence_
    left = gp(x[: place + 1], y[: place + 1], noise_std=1e-5).log_evidence_
    right = gp(x[place:], y[place:], noise_std=1e-5).log_evidence_
    here = gp(x[place : place + 1], y[place : place + 1], noise_std=1e-5).log_evidence_
    assert whole == pytest.approx(left + right - here, abs=1e-6)
    # Where the process is not Markov at that instant, it is seen.
    assert abs(whole - (left + right)) > 1e-3


# ------------------------------------------------------------ long tables

TABLES = {
    "learners": st.lists(
        st.integers(0, NUM_LEARNERS - 1), min_size=NUM_ROWS, max_size=NUM_ROWS
    ),
    "gaps": st.lists(
        st.sampled_from([0.0, 1e-6, 0.3, 2.0, 1e9]), min_size=NUM_ROWS, max_size=NUM_ROWS
    ),
    "missing": st.floats(0, 1),
    "seed": st.integers(0, 10_000),
}


def long_table(learners, gaps, missing, seed):
    """Return rows of learners with 0 to all of the rows, in order of time."""
    generator = np.random.default_rng(seed)
    correct = generator.integers(0, 2, NUM_ROWS).astype(float)
    correct[generator.random(NUM_ROWS) < missing] = np.nan
    return {
        "learner": np.array(["abcd"[i] for i in learners]),
        "kc": np.array(["s", "p"])[generator.integers(0, 2, NUM_ROWS)],
        "time": np.cumsum(gaps),
        "correct": correct,
    }


def tracer_evidence(table):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeskitWarning)
        tracer = bk.KnowledgeTracer(
            num_steps=0, parameters={"level": 0.2}, item_effects=False, random_state=0
        )
        return tracer.fit(table).log_evidence_


@holds_for(3, **TABLES)
def test_evidence_of_learners_knows_no_labels_and_no_order(learners, gaps, missing, seed):
    table = long_table(learners, gaps, missing, seed)
    assume(len(set(table["kc"])) == 2)
    expected = tracer_evidence(table)
    assert np.isfinite(expected)
    # Whole series change places, and the names of learners and components go round.
    order = np.argsort(-np.asarray(learners), kind="stable")
    moved = {name: values[order] for name, values in table.items()}
    names = {"a": "z", "b": "y", "c": "x", "d": "w", "s": "minus", "p": "times"}
    for column in ("learner", "kc"):
        moved[column] = np.array([names[label] for label in moved[column]])
    assert tracer_evidence(moved) == pytest.approx(expected, abs=1e-8)


# ------------------------------------------------------------ results and pieces


@holds_for(
    15,
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True),
    evidence=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    words=st.text(max_size=20),
)
def test_saved_results_come_back(shape, names, evidence, words):
    generator = np.random.default_rng(0)
    diagnostics = Diagnostics(np.nan, 3.0, 2.0, 0, 1, 0.7, (words,))
    result = Posterior(
        draws={name: generator.normal(size=(*shape[:2], *shape[2:])) for name in names},
        positions=generator.normal(size=shape),
        sample_stats={"lp": generator.normal(size=shape[:2])},
        diagnostics=diagnostics,
        log_evidence=evidence,
        log_evidence_se=None,
        history={"ess": np.arange(3.0)},
        engine=words,
        law=words,
        timing={"compile_s": 0.25},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.bkit"
        result.save(path)
        loaded = bk.load(path)
    assert loaded.log_evidence == evidence and loaded.log_evidence_se is None
    assert (loaded.engine, loaded.law, loaded.timing) == (words, words, {"compile_s": 0.25})
    assert repr(loaded.diagnostics) == repr(diagnostics)
    for group in ("draws", "sample_stats", "history"):
        left, right = getattr(loaded, group), getattr(result, group)
        assert list(left) == list(right)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


@holds_for(2, cuts=st.sets(st.integers(1, entries.NUM - 1), max_size=3))
def test_pieces_of_a_filter_give_the_same_bits(cuts):
    whole = filtered([entries.NUM])
    np.testing.assert_array_equal(filtered([*sorted(cuts), entries.NUM]), whole)


def filtered(ends):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeskitWarning)
        est = bk.BayesianModel(entries.state_space(), inference=entries.FILTER, random_state=0)
        start = 0
        for end in ends:
            est.partial_fit(entries.X[start:end], entries.Y[start:end])
            start = end
    return np.append(est.filter_["mean"].to_numpy(), est.log_evidence_)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHECKS))
def test_many_random_examples(name):
    many = settings(max_examples=300, deadline=None, database=None)
    many(CHECKS[name])()
    jax.clear_caches()
