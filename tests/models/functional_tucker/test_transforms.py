"""Transforms of the target: densities, quantiles and means against quadrature and formulas."""

import numpy as np
import pytest
from scipy import integrate
from scipy.special import ndtr

from bayeskit.errors import InvalidDataError
from bayeskit.models.functional_tucker.transforms import (
    BoxCox,
    Identity,
    Standardized,
    as_transform,
    standardized,
)

# The mean is far from where 1 + p t <= 0, so that no mass sits at the edge.
TRANSFORMS = [
    Identity(),
    BoxCox(0.0),
    BoxCox(0.25),
    BoxCox(0.5, shift=2.0),
    Standardized(BoxCox(0.25), 7.2, 2.5),
    Standardized(BoxCox(0.0, shift=1.0), 0.3, 0.7),
]
MEAN, STD = 0.4, 0.3


def _integral(transform, function=lambda y: 1.0):
    # Substituted y = g^-1(t), so that the integrand is smooth; dy/dt by differences.
    def integrand(t):
        y = transform.inverse(t)
        step = 1e-5
        slope = (transform.inverse(t + step) - transform.inverse(t - step)) / (2 * step)
        return np.exp(transform.log_density(y, MEAN, STD)) * function(y) * slope

    edge = MEAN - 8 * STD, MEAN + 8 * STD
    return integrate.quad(integrand, *edge, epsabs=1e-11, epsrel=1e-11)[0]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_density_integrates_to_one_and_gives_the_mean(transform):
    assert _integral(transform) == pytest.approx(1.0, abs=1e-8)
    mean = _integral(transform, lambda y: y)
    assert transform.mean(MEAN, STD) == pytest.approx(mean, rel=1e-7)
    variance = _integral(transform, lambda y: (y - mean) ** 2)
    assert transform.std(MEAN, STD) == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_a_forgotten_jacobian_is_caught():
    class Forgotten(BoxCox):
        def log_derivative(self, y):
            return np.zeros_like(y)

    assert abs(_integral(Forgotten(0.25)) - 1.0) > 0.05


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_quantiles_invert_and_derivatives_fit(transform):
    y = transform.inverse(np.array([-0.3, 0.0, 0.9]))
    np.testing.assert_allclose(transform.inverse(transform.forward(y)), y, rtol=1e-12)
    slope = (transform.forward(y + 1e-6) - transform.forward(y - 1e-6)) / 2e-6
    np.testing.assert_allclose(np.exp(transform.log_derivative(y)), slope, rtol=1e-7)
    for probability in (0.025, 0.5, 0.9):
        at = transform.quantile(probability, MEAN, STD)
        assert ndtr((transform.forward(at) - MEAN) / STD) == pytest.approx(probability)


def test_log_normal_mean_and_deviation():
    m, s = np.array([0.0, 1.0, -2.0]), np.array([0.1, 1.0, 1.5])
    mean = np.exp(m + s**2 / 2)
    np.testing.assert_allclose(BoxCox(0.0).mean(m, s), mean, rtol=1e-12)
    std = mean * np.sqrt(np.expm1(s**2))
    np.testing.assert_allclose(BoxCox(0.0).std(m, s), std, rtol=1e-8)


def test_mass_beyond_the_range_sits_at_the_edge():
    transform = BoxCox(0.25, shift=3.0)
    assert transform.inverse(-5.0) == -3.0
    assert transform.quantile(0.5, -10.0, 1.0) == -3.0


def test_power_zero_is_the_limit():
    y = np.array([0.2, 3.0, 50.0])
    np.testing.assert_allclose(BoxCox(1e-8).forward(y), np.log(y), atol=1e-6)


def test_standardized():
    y = np.array([1.0, 4.0, 9.0])
    t = standardized(BoxCox(0.5), y).forward(y)
    assert t.mean() == pytest.approx(0.0, abs=1e-12)
    assert t.std() == pytest.approx(1.0)
    assert standardized(Identity(), np.full(3, 2.0)).scale == 1.0


def test_refusals():
    for bad in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="power must be in"):
            BoxCox(bad)
    with pytest.raises(ValueError, match="shift must be"):
        BoxCox(0.5, shift=np.inf)
    with pytest.raises(InvalidDataError, match=r"y is -1 at row 2.*larger shift"):
        BoxCox(0.25).check(np.array([1.0, np.nan, -1.0]))
    with pytest.raises(ValueError, match="transform must be None"):
        as_transform("square")
    with pytest.raises(ValueError, match="transform must be None"):
        as_transform(3)
    assert as_transform("log") == BoxCox(0.0)
    assert as_transform(None) == as_transform("standardize") == Identity()
