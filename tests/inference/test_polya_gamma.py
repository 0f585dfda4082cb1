"""Pólya-Gamma numbers: their moments, their distribution function, their use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from bayeskit.inference.polya_gamma import polya_gamma, polya_gamma_cdf

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("c", [0.0, 0.7, -3.0, 20.0])
def test_laplace_transform(c):
    """E exp(-t ω) = cosh(c/2) / cosh(sqrt(c²/4 + t/2)), by integrating the function given."""
    omega = np.linspace(0.0, 6.0, 60_001)
    cdf = np.asarray(polya_gamma_cdf(omega[1:], c))
    assert (np.diff(cdf) > -1e-12).all() and cdf[-1] == pytest.approx(1.0, abs=1e-8)
    for t in (0.5, 4.0):
        # By parts: t ∫ exp(-t ω) F(ω) dω.
        rest = np.exp(-t * 6.0)
        found = t * integrate.simpson(np.exp(-t * omega) * np.r_[0.0, cdf], x=omega) + rest
        expected = np.cosh(c / 2) / np.cosh(np.sqrt(c**2 / 4 + t / 2))
        assert found == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("c", [0.0, 2.0, 30.0])
def test_draws_follow_it(c):
    """Kolmogorov-Smirnov with p > 1e-7; a planted bug, c in the place of c/2, is far off."""
    draws = polya_gamma(jax.random.key(1), jnp.full(5000, c))
    assert stats.kstest(np.asarray(polya_gamma_cdf(draws, c)), "uniform").pvalue > 1e-7
    if c:
        wrong = polya_gamma(jax.random.key(1), jnp.full(5000, 2.0 * c))
        assert stats.kstest(np.asarray(polya_gamma_cdf(wrong, c)), "uniform").pvalue < 1e-7
