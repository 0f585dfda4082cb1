"""Supports: inverses, Jacobians against automatic differentiation, and densities that sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit.inference import random
from bayeskit.inference.maps import Bijector
from bayeskit.models.distribution_transformer.supports import as_support

MIXED = ["real", "positive", "unit", ("interval", -2.0, 3.0), ("interval", 1.0, np.inf)]
SPECS = [(MIXED, 5), ("simplex", 2), ("correlation", 3)]


@pytest.mark.parametrize(("spec", "dim"), SPECS)
def test_jacobians_are_what_differentiation_finds(spec, dim):
    """Exact, by the validator; a Jacobian that is forgotten fails."""
    support = as_support(spec, dim)
    draw = lambda key: random.normal(key, (dim,))
    simplex = support.constrained_dim > dim
    # The validator takes as many coordinates on both sides.
    free = (lambda u: support.constrain(u)[..., :-1]) if simplex else support.constrain
    full = (
        (lambda x: support.unconstrain(jnp.append(x, 1.0 - x.sum())))
        if simplex
        else support.unconstrain
    )
    assert bk.validate(Bijector(free, full, support.log_det), start=draw).verdict == "pass"
    wrong = Bijector(free, full, lambda u: 0.9 * support.log_det(u))
    assert bk.validate(wrong, start=draw).verdict == "fail"


@pytest.mark.parametrize(("spec", "dim"), SPECS)
def test_numpy_and_jax_agree_and_the_inside_is_known(spec, dim):
    support = as_support(spec, dim)
    u = np.random.default_rng(0).normal(size=(4, dim))
    with jax.enable_x64():
        x = support.constrain(u)
        again = support.constrain(jnp.asarray(u))
        assert support.contains(np.asarray(x)).all()
        outside = np.asarray(x) - 20.0
        assert not support.contains(outside).any()
        log_dets = support.log_det(u), support.log_det(jnp.asarray(u))
    np.testing.assert_allclose(x, again, rtol=1e-12)
    np.testing.assert_allclose(*log_dets, rtol=1e-12)


def test_far_out_nothing_is_nan():
    support = as_support(MIXED, 5)
    u = jnp.full((5,), 60.0)
    for sign in (1.0, -1.0):
        assert jnp.isfinite(support.constrain(sign * u)).all()
        assert jnp.isfinite(jax.jacobian(support.constrain)(sign * u)).all()
        assert jnp.isfinite(support.log_det(sign * u))


@pytest.mark.parametrize(
    ("spec", "dim", "message"),
    [
        ("positiv", 2, "must be one of"),
        (["real"], 2, "1 entries for a latent of dimension 2"),
        (("interval", 1.0, 1.0), 1, "lower end must be below"),
        ("correlation", 2, "1, 3, 6, 10"),
    ],
)
def test_bad_specs_are_refused(spec, dim, message):
    with pytest.raises(ValueError, match=message):
        as_support(spec, dim)
