"""Kernels of NumPyro under the validator; a correct one fails with probability at most 1e-6."""

import jax
import jax.numpy as jnp
import pytest
from numpyro.infer import HMC, NUTS, SA, BarkerMH

import bayeskit as bk
from bayeskit.interop.numpyro_kernels import from_numpyro

FIXED = {"adapt_step_size": False, "adapt_mass_matrix": False}


def metric(tuning):
    factor = jnp.diag(tuning.factor) if tuning.factor.ndim == 1 else tuning.factor
    return {"inverse_mass_matrix": factor @ factor.T, "dense_mass": True}


def hmc(potential, tuning, offset=0.0):
    return HMC(
        potential_fn=lambda x: potential(x) + offset * x[0],
        step_size=tuning.step_size,
        num_steps=3,
        trajectory_length=None,
        **metric(tuning),
        **FIXED,
    )


def tilted_hmc(potential, tuning):
    """Planted: the potential of another target."""
    return hmc(potential, tuning, offset=0.1)


def nuts(potential, tuning):
    return NUTS(
        potential_fn=potential,
        step_size=tuning.step_size,
        max_tree_depth=4,
        **metric(tuning),
        **FIXED,
    )


def barker(potential, tuning):
    step_size = tuning.step_size * jnp.min(tuning.factor.diagonal())
    return BarkerMH(potential_fn=potential, step_size=step_size, **FIXED)


@pytest.mark.parametrize("factory", [hmc, barker])
def test_right_kernels_pass(factory):
    report = bk.validate(from_numpyro(factory), models=["correlated_normal"])
    assert report.verdict == "pass", str(report)


@pytest.mark.slow
def test_nuts_passes():
    report = bk.validate(from_numpyro(nuts), models=["correlated_normal", "skewed"])
    assert report.verdict == "pass", str(report)


def test_wrong_potential_is_found():
    report = bk.validate(from_numpyro(tilted_hmc), models=["skewed"])
    assert report.verdict == "fail"


def test_moves_inside_tempered_smc():
    """Log evidence within five standard errors: false alarms below 1e-5."""
    target = bk.Target(
        log_prior=lambda x: jax.scipy.stats.norm.logpdf(x[0]),
        log_likelihood=lambda x: jax.scipy.stats.norm.logpdf(1.5, x[0], 0.5),
        sample_prior=lambda key: bk.inference.random.normal(key, (1,)),
    )
    exact = float(jax.scipy.stats.norm.logpdf(1.5, 0.0, 1.25**0.5))
    engine = bk.SMC(num_particles=2000, kernel=from_numpyro(plain_hmc))
    fitted = bk.BayesianModel(target, inference=engine, random_state=0).fit()
    assert abs(fitted.log_evidence_ - exact) < 5 * fitted.log_evidence_se_


def plain_hmc(potential, tuning):
    return HMC(
        potential_fn=potential, step_size=0.3, num_steps=3, trajectory_length=None, **FIXED
    )


def test_ensembles_are_refused():
    kernel = from_numpyro(lambda potential: SA(potential_fn=potential), name="SA")
    density = bk.Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    state = kernel.init(jnp.zeros(2), density)
    with pytest.raises(TypeError, match="SA keeps no position"):
        kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))


def test_bad_input():
    with pytest.raises(TypeError, match="potential function"):
        from_numpyro(None)
