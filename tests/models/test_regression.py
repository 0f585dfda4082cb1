"""Scaled regression models against quadrature, and the scaling against hand computation."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import bayeskit as bk
from bayeskit.errors import InvalidDataError
from bayeskit.models.regression import (
    design_matrix,
    on_original_scale,
    regression_model,
    response,
)

ENGINE = bk.SMC(num_particles=4000)


def test_columns_are_scaled_to_sd_one_half():
    table = {"a": [1.0, 2.0, 3.0, 6.0], "b": [0, 1, 0, 1]}
    design = design_matrix(table)
    assert design.names == ("a", "b")
    np.testing.assert_allclose(design.values.mean(axis=0), 0.0, atol=1e-15)
    np.testing.assert_allclose(design.values.std(axis=0), 0.5)
    np.testing.assert_allclose(design.centre, [3.0, 0.5])
    np.testing.assert_allclose(design.apply(table), design.values)


def test_original_scale_predicts_the_same():
    rng = np.random.default_rng(0)
    table = {"a": rng.normal(5, 3, 30), "b": rng.normal(-2, 0.1, 30)}
    design = design_matrix(table)
    draws = {"intercept": rng.normal(size=7), "coefficients": rng.normal(size=(7, 2))}
    original = on_original_scale(draws, design)
    scaled = draws["intercept"][:, None] + draws["coefficients"] @ design.values.T
    plain = np.column_stack([table["a"], table["b"]])
    again = original["intercept"][:, None] + original["coefficients"] @ plain.T
    np.testing.assert_allclose(again, scaled, atol=1e-10)


def test_logistic_evidence_equals_quadrature():
    rng = np.random.default_rng(1)
    x = rng.normal(size=12)
    y = (x + rng.normal(size=12) > 0).astype(int)
    design = design_matrix({"x": x})
    est = regression_model("logistic", design.names, inference=ENGINE, random_state=0)
    est.fit(design.values, y)

    def integrand(b, a):
        eta = a + b * design.values[:, 0]
        log_likelihood = -np.logaddexp(0.0, np.where(y == 1, -eta, eta)).sum()
        return np.exp(log_likelihood) * stats.norm.pdf(a, 0, 20) * stats.norm.pdf(b, 0, 5)

    exact, _ = integrate.dblquad(integrand, -30, 30, -30, 30, epsabs=1e-9)
    assert abs(est.log_evidence_ - np.log(exact)) < 6 * est.log_evidence_se_


@pytest.mark.parametrize(
    ("family", "y", "message"),
    [
        ("logistic", [1, 1, 1], "class"),
        ("logistic", [0, 1, 2], "0 and 1|two"),
        ("poisson", [0, -1, 2], "-1"),
        ("poisson", [0, 1.5, 2], "1.5"),
        ("linear", [0, np.inf, 2], "inf"),
    ],
)
def test_responses_are_refused(family, y, message):
    with pytest.raises(InvalidDataError, match=message):
        response(np.array(y), family)


def test_constant_column_is_refused():
    with pytest.raises(InvalidDataError, match=r"'b'.*constant|constant.*'b'"):
        design_matrix({"a": [1.0, 2.0], "b": [3.0, 3.0]})


def test_float32_data_of_jax_are_welcome():
    design = design_matrix(np.asarray(jnp.arange(6.0).reshape(3, 2) ** 2))
    assert design.values.dtype == np.float64
