"""The joint Gaussian block against dense algebra."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from bayeskit.inference.gp_kernels import Matern12, Matern32, Periodic, White
from bayeskit.models.functional_tucker import additive
from bayeskit.models.functional_tucker.terms import (
    GroupMeanEffect,
    MainEffect,
    WithinGroup,
    on,
)
from tests.models.functional_tucker import dense

TEMP, PRES, DAY = 0, 1, 2


@dataclass
class Case:
    """Terms, the covariance of rows that they state, and what a row is to it."""

    terms: tuple
    kernel: object
    num_new_context: object = None


def _table(rng, days):
    return np.c_[np.round(rng.normal(10, 5, len(days)), 1), rng.normal(0, 3, len(days)), days]


def make_data():
    rng = np.random.default_rng(3)
    # Groups of 5, 1, 3 and 2 rows with gaps between; rows 0 and 1 are equal.
    days = np.array([4, 4, 4, 4, 4, 5, 7.5, 7.5, 7.5, 12, 12, 20.0])
    table = _table(rng, days)
    table[1] = table[0]
    y = rng.normal(size=len(days))
    precision = rng.uniform(1, 60, len(days))
    # A row, and the whole group of day 20, without data.
    precision[[2, 11]] = 0.0
    # Rows of seen groups (one of them given twice), of unseen ones before, between and after.
    new = _table(rng, np.array([4, 4, 5, 20, 6, 6, 6, 1.5, 30, 7.5]))
    new[1] = table[0]
    new[5] = new[4]
    new[0, TEMP] = table[5, TEMP]
    return table, y, precision, new


def group_mean(table, training, context):
    """Return the mean of TEMP over the training rows of each day, else over the rows given."""
    means = []
    for row in table:
        known = training[training[:, DAY] == row[DAY], TEMP]
        given = table[table[:, DAY] == row[DAY], TEMP] if context == "given" else row[TEMP]
        means.append(known.mean() if len(known) else np.mean(given))
    return np.array(means)


def make_case(training, with_within=True, num_knots=None, context="given"):
    """Return terms, and the covariance of two tables of rows."""
    terms = [
        MainEffect(TEMP, Matern32(0.7, 6.0), num_knots=num_knots),
        MainEffect(PRES, Matern12(0.4, 2.0)),
        GroupMeanEffect(TEMP, DAY, Matern32(0.5, 4.0)),
        MainEffect(DAY, Matern32(0.9, 3.0) + Periodic(0.5, 7.0, 1.1) + White(0.3)),
    ]
    f_t = dense.matern32(0.7, 6.0)
    if num_knots:
        low, high = training[:, TEMP].min(), training[:, TEMP].max()
        f_t = dense.on_grid(f_t, np.linspace(low, high, num_knots))
    f_p, h_t = dense.matern12(0.4, 2.0), dense.matern32(0.5, 4.0)
    s, a, e = dense.matern32(0.9, 3.0), dense.periodic(0.5, 7.0, 1.1, 6), dense.white(0.3)
    if with_within:
        terms.append(
            WithinGroup(
                DAY,
                on(TEMP, Matern12(0.6, 5.0))
                + on(TEMP, Matern12(0.5, 1.0)) * on(PRES, Matern32(1.0, 2.0)),
            )
        )
    w1, w2, w3 = dense.matern12(0.6, 5.0), dense.matern12(0.5, 1.0), dense.matern32(1.0, 2.0)

    def kernel(x, z):
        mx, mz = group_mean(x, training, context), group_mean(z, training, context)
        K = 9.0 + f_t(x[:, TEMP], z[:, TEMP]) + f_p(x[:, PRES], z[:, PRES]) + h_t(mx, mz)
        K = K + sum(k(x[:, DAY], z[:, DAY]) for k in (s, a, e))
        if with_within:
            same = np.equal.outer(x[:, DAY], z[:, DAY])
            within = w1(x[:, TEMP], z[:, TEMP])
            within = within + w2(x[:, TEMP], z[:, TEMP]) * w3(x[:, PRES], z[:, PRES])
            K = K + same * within
        return K

    return tuple(terms), kernel


def dense_answer(kernel, table, y, precision, new):
    return dense.posterior(
        kernel(table, table), y, precision, kernel(new, new), kernel(new, table)
    )


CASES = {
    "within": {},
    "no within": {"with_within": False},
    "training context": {"context": "training"},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_posterior_and_evidence_are_those_of_dense_algebra(options):
    table, y, precision, new = make_data()
    terms, kernel = make_case(table, **options)
    mean, covariance, evidence = dense_answer(kernel, table, y, precision, new)
    with jax.enable_x64(True):
        design = additive.additive_design(terms, table, context=options.get("context", "given"))
        posterior = additive.additive_posterior(design, y, precision)
        found_mean, found_variance = additive.predict_rows(posterior, new)
    assert posterior.log_evidence == pytest.approx(evidence, rel=1e-8)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found_variance, np.diag(covariance), rtol=1e-8)
