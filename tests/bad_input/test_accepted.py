"""Unusual input that is accepted: what holds of the result."""

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning, NumericalWarning
from bayeskit.models.regression import design_matrix
from tests.bad_input import entries
from tests.bad_input.entries import CLASSES, NUM, X, Y


@pytest.fixture(autouse=True)
def _short_runs():
    """Runs of 96 particles are for what they accept, not for what they find."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def evidence(entry, **arguments):
    return entry(**arguments).log_evidence_


def test_one_row():
    """Closed form: y is normal with variance 1 + |x|^2, or 2 for the state-space model."""
    x, y = X[:1], Y[:1]
    for entry in (entries.numpyro_model, entries.plain_target):
        found = entry(X=x, y=y, inference=bk.SMC(num_particles=2000, progress=False))
        norm = 0.0 if entry is entries.numpyro_model else 0.5 * np.log(2 * np.pi)
        # The Target's prior and likelihood have no constants: pi is that of the prior.
        exact = -0.5 * y[0] ** 2 / (1 + x[0] @ x[0]) - 0.5 * np.log(1 + x[0] @ x[0])
        exact += norm - 0.5 * np.log(2 * np.pi)
        assert abs(found.log_evidence_ - exact) < 6 * found.log_evidence_se_
    found = entries.state_space_model(X=x, y=y, inference=bk.ParticleFilter(4000))
    exact = -0.25 * y[0] ** 2 - 0.5 * np.log(4 * np.pi)
    assert abs(found.log_evidence_ - exact) < 6 * found.log_evidence_se_


def test_a_column_that_says_nothing_keeps_its_prior():
    """Mean and variance of the coefficient within 6 standard errors: chance below 1e-7."""
    blank = X * [1.0, 0.0]
    inference = bk.SMC(num_particles=2000, progress=False)
    for entry in (entries.numpyro_model, entries.plain_target):
        found = entry(X=blank, inference=inference)
        (name,) = found.result_.draws
        draws = found.result_.flat(name)[:, 1]
        size = found.diagnostics_.ess_bulk_min
        assert abs(draws.mean()) < 6 / np.sqrt(size)
        assert abs(draws.var() - 1.0) < 6 * np.sqrt(2 / size)
        # The column that does speak has another posterior.
        other = found.result_.flat(name)[:, 0]
        assert other.var() < 1.0 - 6 * np.sqrt(2 / size)


def test_constant_response():
    found = entries.regression(y=np.full(NUM, 3.0), family="linear")
    draws = found.result_.draws
    assert np.isfinite(found.log_evidence_)
    assert (draws["noise"] > 0).all() and np.isfinite(draws["noise"]).all()
    assert abs(draws["intercept"].mean() - 3.0) < 1.0


def test_collinear_columns_warn():
    with pytest.warns(NumericalWarning, match="collinear .condition number .*only the prior"):
        design_matrix(X[:, [0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        design_matrix(X)


def test_answers_of_one_kind():
    for answer in (0, 1):
        tracer = entries.knowledge_tracer(correct=[answer] * 8)
        asked = {"learner": ["ann"], "kc": ["sum"], "time": [4.0]}
        (probability,) = tracer.predict_proba(asked)
        assert 0.0 < probability < 1.0
        assert np.isfinite(tracer.log_evidence_)


def test_bools_are_numbers():
    flags = X > 0
    for entry in (entries.numpyro_model, entries.plain_target):
        assert evidence(entry, X=flags) == evidence(entry, X=flags.astype(float))
    assert evidence(entries.regression, y=Y > 0) == evidence(entries.regression)
    truth = np.array(entries.TABLE["correct"], bool)
    assert evidence(entries.knowledge_tracer, correct=truth) == evidence(
        entries.knowledge_tracer
    )
    assert evidence(entries.markov_gp, y=Y > 0) == evidence(entries.markov_gp, y=CLASSES)


def layouts(array, folder):
    """Return the array in all layouts that NumPy has."""
    locked = array.copy()
    locked.flags.writeable = False
    path = folder / f"{len(list(folder.iterdir()))}.raw"
    mapped = np.memmap(path, array.dtype, "w+", shape=array.shape)
    mapped[:] = array
    strided = np.repeat(array, 2, axis=0)[::2]
    swapped = array.astype(array.dtype.newbyteorder(">"))
    return [locked, np.asfortranarray(array), mapped, strided, swapped, array.tolist()]


@pytest.mark.parametrize(
    "entry",
    [
        entries.numpyro_model,
        entries.plain_target,
        entries.state_space_model,
        entries.regression,
        entries.markov_gp,
    ],
)
def test_layouts_of_arrays(entry, tmp_path):
    """The same bits, and nothing is written to what was given."""
    x = X[:, 0] if entry is entries.markov_gp else X
    y = CLASSES if entry is entries.regression else Y
    expected = evidence(entry)
    for given_x, given_y in zip(layouts(x, tmp_path), layouts(y, tmp_path), strict=True):
        assert evidence(entry, X=given_x, y=given_y) == expected
        np.testing.assert_array_equal(given_x, x)
        np.testing.assert_array_equal(given_y, y)


def test_layouts_of_arrays_in_regressions_on_predicted_labels(tmp_path):
    expected = entries.dsl().coef_
    for given_x, given_y in zip(layouts(X, tmp_path), layouts(Y, tmp_path), strict=True):
        np.testing.assert_array_equal(entries.dsl(X=given_x, y=given_y).coef_, expected)


def test_columns_in_another_order():
    frame = pd.DataFrame(X, columns=["dose", "age"])
    for entry in (entries.numpyro_model, entries.dsl):
        fitted = entry(X=frame)
        assert list(fitted.feature_names_in_) == ["dose", "age"]
        np.testing.assert_array_equal(fitted.predict(frame), entry(X=X).predict(X))
        with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
            fitted.predict(frame[["age", "dose"]])
        with pytest.raises(ValueError, match="Feature names unseen at fit time"):
            fitted.predict(frame.rename(columns={"age": "years"}))
        with pytest.raises(ValueError, match="X has 1 features, but"):
            entry(X=X).predict(X[:, :1])
