"""The ten posteriors with reference draws, written from their equations for NumPyro.

Each function takes the arrays that ``cases.py`` prepares. N(m, s) has standard deviation s,
and latent names are those of the reference. Long recursions work on scalars and long vectors,
never on an axis of length two, so that many chains run side by side without waste.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import constraints
from scipy.special import ndtr

RK4_STEPS_A_YEAR = 12
# Of so many candidates the first that fits is taken: none does with probability 2^-64.
NUM_CANDIDATES = 64


def flat(name: str, support: constraints.Constraint = constraints.real, shape: tuple = ()):
    """Sample from the improper uniform density on a support."""
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


class OrderedPair(dist.Distribution):
    """Independent N(loc_k, scale), k = 1, 2, restricted to low < x_1 < x_2.

    ``mass`` is the probability of the restriction; ``low`` is 0 or minus infinity.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, loc: tuple[float, float], scale: float, low: float, mass: float):
        self.loc, self.scale, self.low, self.mass = loc, scale, low, mass
        super().__init__((), (2,))

    @property
    def support(self):
        return (
            constraints.ordered_vector if self.low < 0 else constraints.positive_ordered_vector
        )

    def sample(self, key, sample_shape=()):
        shape = (*sample_shape, NUM_CANDIDATES, 2)
        pairs = jnp.array(self.loc) + self.scale * jax.random.normal(key, shape)
        fits = (pairs[..., 0] > self.low) & (pairs[..., 0] < pairs[..., 1])
        first = jnp.argmax(fits, axis=-1)[..., None, None]
        return jnp.take_along_axis(pairs, first, axis=-2)[..., 0, :]

    def log_prob(self, value):
        normals = [
            dist.Normal(m, self.scale).log_prob(value[..., k]) for k, m in enumerate(self.loc)
        ]
        return sum(normals) - np.log(self.mass)


def eight_schools(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * z)
    numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def autoregression(lags, y):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([lags.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def arma(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = numpyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))

    def step(error, residual):
        error = residual - theta * error
        return error, error

    # The value before the first is taken to be mu, and its error zero.
    before = jnp.concatenate([mu[None], y[:-1]])
    _, errors = lax.scan(step, jnp.zeros_like(mu), y - mu - phi * before)
    numpyro.factor("y", dist.Normal(0.0, sigma).log_prob(errors).sum())


def garch(y, sigma1):
    mu = flat("mu")
    alpha0 = flat("alpha0", constraints.positive)
    alpha1 = flat("alpha1", constraints.unit_interval)
    beta1 = flat("beta1", constraints.interval(0.0, 1.0 - alpha1))

    def step(variance, shock):
        variance = shock + beta1 * variance
        return variance, variance

    first = sigma1**2
    _, later = lax.scan(step, first + 0.0 * mu, alpha0 + alpha1 * (y[:-1] - mu) ** 2)
    scale = jnp.sqrt(jnp.concatenate([first[None], later]))
    numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def gaussian_process(x, y):
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))  # a variance, not its root
    kernel = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)
    covariance = kernel + sigma * jnp.eye(x.size, dtype=x.dtype)
    numpyro.sample("y", dist.MultivariateNormal(0.0, covariance), obs=y)


def kid_score(design, y):
    beta = flat("beta", constraints.real_vector, (design.shape[1],))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(design @ beta, sigma), obs=y)


def party_identification(design, y):
    beta = flat("beta", constraints.real_vector, (design.shape[1],))
    sigma = flat("sigma", constraints.positive)
    numpyro.sample("y", dist.Normal(design @ beta, sigma), obs=y)


def lotka_volterra(y_init, y):
    rates = dist.TruncatedNormal(
        jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]), low=0.0
    )
    theta = numpyro.sample("theta", rates.to_event(1))
    z_init = numpyro.sample("z_init", dist.LogNormal(np.log(10.0), 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
    h = 1.0 / RK4_STEPS_A_YEAR

    def slope(u, v):
        return (theta[0] - theta[1] * v) * u, (theta[3] * u - theta[2]) * v

    def step(state, _):
        u, v = state
        a, b = slope(u, v)
        c, d = slope(u + h / 2 * a, v + h / 2 * b)
        e, f = slope(u + h / 2 * c, v + h / 2 * d)
        p, q = slope(u + h * e, v + h * f)
        state = u + h / 6 * (a + 2 * c + 2 * e + p), v + h / 6 * (b + 2 * d + 2 * f + q)
        return state, state

    num_steps = y.shape[0] * RK4_STEPS_A_YEAR
    _, path = lax.scan(step, (z_init[0], z_init[1]), length=num_steps)
    years = slice(RK4_STEPS_A_YEAR - 1, None, RK4_STEPS_A_YEAR)
    for k, name in enumerate(("hares", "lynx")):
        level = jnp.concatenate([z_init[k][None], path[k][years]])
        counts = jnp.concatenate([y_init[k][None], y[:, k]])
        numpyro.sample(name, dist.LogNormal(jnp.log(level), sigma[k]), obs=counts)


def hidden_markov(y):
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mass = ndtr(3.0) - ndtr(-7.0 / np.sqrt(2.0))  # the two violations hardly ever coincide
    mu = numpyro.sample("mu", OrderedPair((3.0, 10.0), 1.0, 0.0, float(mass)))
    emissions = [dist.Normal(mu[k], 1.0).log_prob(y) for k in range(2)]
    log_p = jnp.log(jnp.stack([theta1, theta2]))

    def step(state, emission):
        first, second = state
        state = (
            emission[0] + jnp.logaddexp(first + log_p[0, 0], second + log_p[1, 0]),
            emission[1] + jnp.logaddexp(first + log_p[0, 1], second + log_p[1, 1]),
        )
        return state, None

    start = tuple(emission[0] for emission in emissions)
    (first, second), _ = lax.scan(step, start, tuple(emission[1:] for emission in emissions))
    numpyro.factor("y", jnp.logaddexp(first, second))


def gaussian_mixture(y):
    mu = numpyro.sample("mu", OrderedPair((0.0, 0.0), 2.0, -np.inf, 0.5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    first = jnp.log(theta) + dist.Normal(mu[0], sigma[0]).log_prob(y)
    second = jnp.log1p(-theta) + dist.Normal(mu[1], sigma[1]).log_prob(y)
    numpyro.factor("y", jnp.logaddexp(first, second).sum())
