"""Models written twice, for Pyro and for NumPyro, with data. Needs torch and Pyro."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as nd
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform

RNG = np.random.default_rng(3)
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


class Twin(NamedTuple):
    pyro: Any
    numpyro: Any
    call: dict


def normal(y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(5.0))
    with pyro.plate("rows", 30):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def numpyro_normal(y=None):
    mean = numpyro.sample("mean", nd.Normal(0.0, 10.0))
    scale = numpyro.sample("scale", nd.HalfNormal(5.0))
    with numpyro.plate("rows", 30):
        numpyro.sample("y", nd.Normal(mean, scale), obs=y)


def logistic(X, y=None):
    intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(X.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", X.shape[0]):
        pyro.sample("y", dist.Bernoulli(logits=intercept + X @ slopes), obs=y)


def numpyro_logistic(X, y=None):
    intercept = numpyro.sample("intercept", nd.Normal(0.0, 2.0))
    slopes = numpyro.sample("slopes", nd.Normal(jnp.zeros(X.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", nd.Bernoulli(logits=intercept + X @ slopes), obs=y)


def eight_schools(errors, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        effect = pyro.deterministic("effect", mean + scale * z)
        pyro.sample("y", dist.Normal(effect, errors), obs=y)


def numpyro_eight_schools(errors, y=None):
    mean = numpyro.sample("mean", nd.Normal(0.0, 5.0))
    scale = numpyro.sample("scale", nd.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        z = numpyro.sample("z", nd.Normal(0.0, 1.0))
        effect = numpyro.deterministic("effect", mean + scale * z)
        numpyro.sample("y", nd.Normal(effect, errors), obs=y)


def mixture(y=None):
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((3,), 2.0)))
    base = dist.Normal(torch.zeros(3), 4.0).to_event(1)
    centres = pyro.sample("centres", dist.TransformedDistribution(base, [OrderedTransform()]))
    with pyro.plate("rows", 60):
        parts = dist.Normal(centres, 1.0)
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=y)


def numpyro_mixture(y=None):
    weights = numpyro.sample("weights", nd.Dirichlet(jnp.full((3,), 2.0)))
    base = nd.Normal(jnp.zeros(3), 4.0).to_event(1)
    ordered = nd.transforms.OrderedTransform()
    centres = numpyro.sample("centres", nd.TransformedDistribution(base, [ordered]))
    with numpyro.plate("rows", 60):
        parts = nd.Normal(centres, 1.0)
        numpyro.sample("y", nd.MixtureSameFamily(nd.Categorical(weights), parts), obs=y)


def counts(group, exposure, y=None):
    """Poisson counts in groups, with a gamma law of rates and a prior that depends on one."""
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    floor = pyro.sample("floor", dist.Uniform(0.0, shape))
    with pyro.plate("groups", 4):
        rate = pyro.sample("rate", dist.Gamma(shape, 1.0))
    with pyro.plate("rows", len(group)):
        pyro.sample("y", dist.Poisson((floor + rate[group]) * exposure), obs=y)


def numpyro_counts(group, exposure, y=None):
    shape = numpyro.sample("shape", nd.Gamma(2.0, 1.0))
    floor = numpyro.sample("floor", nd.Uniform(0.0, shape))
    with numpyro.plate("groups", 4):
        rate = numpyro.sample("rate", nd.Gamma(shape, 1.0))
    with numpyro.plate("rows", len(group)):
        numpyro.sample("y", nd.Poisson((floor + rate[group]) * exposure), obs=y)


def scaled(X, y=None):
    """A scaled and masked plate, a factor, and a Cholesky factor of correlations."""
    corr = pyro.sample("corr", dist.LKJCholesky(3, 2.0))
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    pyro.factor("nudge", -0.3 * share)
    keep = torch.arange(len(X)) > 1
    with (
        pyro.plate("rows", len(X)),
        pyro.poutine.scale(scale=2.0),
        pyro.poutine.mask(mask=keep),
    ):
        pyro.sample("y", dist.Normal(X @ corr[2] + share, 1.0), obs=y)


def numpyro_scaled(X, y=None):
    corr = numpyro.sample("corr", nd.LKJCholesky(3, 2.0))
    share = numpyro.sample("share", nd.Beta(2.0, 3.0))
    numpyro.factor("nudge", -0.3 * share)
    keep = jnp.arange(len(X)) > 1
    handlers = numpyro.handlers
    with numpyro.plate("rows", len(X)), handlers.scale(scale=2.0), handlers.mask(mask=keep):
        numpyro.sample("y", nd.Normal(X @ corr[2] + share, 1.0), obs=y)


def _twins() -> dict[str, Twin]:
    X = RNG.normal(size=(40, 2))
    labels = (RNG.uniform(size=40) < 1.0 / (1.0 + np.exp(-X[:, 0] - 0.5))).astype(int)
    group = np.arange(24) % 4
    exposure = RNG.uniform(0.5, 2.0, 24)
    rates = (0.5 + np.array([0.5, 1.0, 3.0, 6.0])[group]) * exposure
    centres = np.array([-4.0, 0.0, 3.0])[RNG.integers(0, 3, 60)]
    return {
        "normal": Twin(normal, numpyro_normal, {"y": RNG.normal(3.0, 2.0, 30)}),
        "logistic": Twin(logistic, numpyro_logistic, {"X": X, "y": labels}),
        "eight_schools": Twin(
            eight_schools, numpyro_eight_schools, {"errors": ERRORS, "y": EFFECTS}
        ),
        "mixture": Twin(mixture, numpyro_mixture, {"y": centres + RNG.normal(size=60)}),
        "counts": Twin(
            counts,
            numpyro_counts,
            {"group": group, "exposure": exposure, "y": RNG.poisson(rates)},
        ),
        "scaled": Twin(
            scaled,
            numpyro_scaled,
            {"X": RNG.normal(size=(7, 3)), "y": RNG.normal(size=7)},
        ),
    }


TWINS = _twins()
