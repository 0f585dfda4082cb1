"""Posteriors that samplers fail on, or that are merely larger, for NumPyro.

The funnel and the heavy tails are bare densities: no engine may draw them from a prior.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.posteriordb.models import flat

FUNNEL_DIM = 10
TAILS_DIM, TAILS_DF = 20, 3.0
# Two modes eight standard deviations apart, on a prior that covers both.
MODES_AT, MODES_WEIGHT, MODES_PRIOR_SD = 4.0, 0.3, 10.0


def funnel():
    """v ~ N(0, 3), x_i ~ N(0, exp(v / 2))."""
    v = flat("v")
    x = flat("x", constraints.real_vector, (FUNNEL_DIM - 1,))
    numpyro.factor("v density", dist.Normal(0.0, 3.0).log_prob(v))
    numpyro.factor("x density", dist.Normal(0.0, jnp.exp(v / 2)).log_prob(x).sum())


def funnel_draws(rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    v = rng.normal(0.0, 3.0, num)
    x = np.exp(v / 2)[:, None] * rng.normal(size=(num, FUNNEL_DIM - 1))
    return {"v": v, "x": x}


def heavy_tails():
    """Twenty independent Student-t variables with three degrees of freedom."""
    x = flat("x", constraints.real_vector, (TAILS_DIM,))
    numpyro.factor("density", dist.StudentT(TAILS_DF).log_prob(x).sum())


def heavy_tailed_draws(rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    return {"x": rng.standard_t(TAILS_DF, (num, TAILS_DIM))}


def two_modes():
    """x ~ N(0, 10 I) with likelihood 0.3 N(-m, I) + 0.7 N(m, I), m = (4, 4)."""
    x = numpyro.sample("x", dist.Normal(0.0, MODES_PRIOR_SD).expand([2]).to_event(1))
    left = np.log(MODES_WEIGHT) - 0.5 * jnp.sum((x + MODES_AT) ** 2)
    right = np.log1p(-MODES_WEIGHT) - 0.5 * jnp.sum((x - MODES_AT) ** 2)
    numpyro.factor("density", jnp.logaddexp(left, right))


def two_mode_draws(rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    # Both modes are as far from the centre of the prior: it keeps their weights.
    shrink = MODES_PRIOR_SD**2 / (1 + MODES_PRIOR_SD**2)
    side = np.where(rng.random(num) < MODES_WEIGHT, -MODES_AT, MODES_AT)
    return {"x": shrink * side[:, None] + np.sqrt(shrink) * rng.normal(size=(num, 2))}


def eight_schools_centred(sigma, y):
    """The posterior of the non-centred form; the density is unbounded at tau = 0."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def logistic(design, y):
    """b_0 ~ N(0, 20), b_j ~ N(0, 5); the first column of the design is one."""
    scale = jnp.full(design.shape[1], 5.0).at[0].set(20.0)
    b = numpyro.sample("b", dist.Normal(0.0, scale).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=design @ b), obs=y)
