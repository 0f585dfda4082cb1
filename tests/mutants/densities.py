"""Densities: transforms without their Jacobian, and likelihoods that are not the data's law."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import Target, random
from bayeskit.inference.maps import Bijector
from bayeskit.validation import Atoms, Level, enumerate_paths, validate
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly
from tests.validation.test_calibration import NormalMean, log_likelihood, simulate

FAMILY = "Densities"
# Few replicates: what these mistakes change is large.
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)


# ---------------------------------------------------------------- change of variables

# A gamma variable by its log, a beta variable by its logit, and three probabilities by their
# log ratios; the shapes are whole numbers, so that exact draws are sums of exponentials.
_GAMMA, _BETA, _DIRICHLET = 3, (2, 5), (2, 3, 4)
# How often the Jacobian is added to the log density.
TIMES_ADDED = {"missing": 0.0, "wrong sign": -1.0, "twice": 2.0}


def forward(u):
    """Return (gamma variable, beta variable, the first two of three probabilities)."""
    probabilities = jax.nn.softmax(jnp.append(u[2:], 0.0))
    return jnp.concatenate([jnp.exp(u[:1]), jax.nn.sigmoid(u[1:2]), probabilities[:2]])


def inverse(x):
    gamma, beta, first, second = x
    rest = 1.0 - first - second
    return jnp.log(jnp.stack([gamma, beta / (1.0 - beta), first / rest, second / rest]))


def log_jacobian(u, *, bug=""):
    of_logit = jax.nn.log_sigmoid(u[1]) + jax.nn.log_sigmoid(-u[1])
    of_simplex = jnp.sum(jax.nn.log_softmax(jnp.append(u[2:], 0.0)))
    return TIMES_ADDED.get(bug, 1.0) * (u[0] + of_logit + of_simplex)


def in_range(x):
    return jnp.all(x > 0) & (x[1] < 1) & (x[2] + x[3] < 1)


def log_density(u, *, bug=""):
    """Return the log density of u, from that of the constrained variables."""
    gamma, beta, first, second = forward(u)
    log_p = (_GAMMA - 1) * jnp.log(gamma) - gamma
    log_p += (_BETA[0] - 1) * jnp.log(beta) + (_BETA[1] - 1) * jnp.log1p(-beta)
    probabilities = jnp.stack([first, second, 1.0 - first - second])
    log_p += jnp.sum((np.array(_DIRICHLET) - 1.0) * jnp.log(probabilities))
    return log_p + log_jacobian(u, bug=bug)


def draw(key):
    def log_gamma(part, shape):
        return jnp.log(-jnp.sum(jnp.log1p(-random.uniform(part, (shape,)))))

    shapes = (_GAMMA, *_BETA, *_DIRICHLET)
    g = [
        log_gamma(part, shape) for part, shape in zip(random.split(key, 6), shapes, strict=True)
    ]
    return jnp.stack([g[0], g[1] - g[2], g[3] - g[5], g[4] - g[5]])


def jacobian_pointwise(bug, planted):
    declared = functools.partial(log_jacobian, bug=bug if planted else "")
    return validate(Bijector(forward, inverse, declared, in_range), start=draw)


def jacobian_exact_start(bug, planted):
    density = functools.partial(log_density, bug=bug if planted else "")
    return validate(Target(log_density=density, sample_exact=draw), level=LEVEL)


# ---------------------------------------------------------------- likelihoods


class Joint(NamedTuple):
    """A parameter with few values, a simulator of data, and what claims to be their density."""

    num_values: int
    simulate: Callable  # (key) -> (theta, data)
    log_joint: Callable  # (theta, data, planted) -> ()


_LOG_PRIOR = np.log([0.5, 0.2, 0.3])


def _log_prior(theta):
    return jnp.asarray(_LOG_PRIOR)[theta]


def _count() -> Joint:
    """A count 0, 1 or 2 with mass proportional to rate^y / y!."""
    log_rate = np.log([0.4, 1.1, 2.7])

    def log_masses(theta):
        counts = jnp.arange(3.0)
        return counts * jnp.asarray(log_rate)[theta] - jax.lax.lgamma(counts + 1.0)

    def simulate(key):
        first, second = random.split(key)
        theta = random.categorical(first, jnp.asarray(_LOG_PRIOR))
        return theta, random.categorical(second, log_masses(theta))

    def log_joint(theta, y, planted):
        constant = jax.nn.logsumexp(log_masses(theta))
        if planted:  # "constants do not matter" - but this one depends on the parameter
            constant = 0.0
        return _log_prior(theta) + log_masses(theta)[y] - constant

    return Joint(3, simulate, log_joint)


def _truncated() -> Joint:
    """A geometric variable, truncated above at a bound that is the parameter."""
    log_masses = np.log(0.6) * np.arange(3)

    def simulate(key):
        first, second = random.split(key)
        bound = random.categorical(first, jnp.asarray(_LOG_PRIOR))
        inside = jnp.arange(3) <= bound
        return bound, random.categorical(second, jnp.where(inside, log_masses, -jnp.inf))

    def log_joint(bound, y, planted):
        inside = jnp.arange(3) <= bound
        below = jax.nn.logsumexp(jnp.where(inside, log_masses, -jnp.inf))
        if planted:  # the density of the untruncated variable
            below = math.log(np.exp(log_masses).sum())
        inside_log_mass = jnp.asarray(log_masses)[y] - below
        return _log_prior(bound) + jnp.where(y <= bound, inside_log_mass, -jnp.inf)

    return Joint(3, simulate, log_joint)


def _bernoulli(log_likelihood) -> Joint:
    """Three binary observations with probabilities by logistic regression."""
    slopes, design = np.array([-0.8, 0.4, 1.5]), np.array([0.5, 1.0, -1.2])

    def simulate(key):
        first, second = random.split(key)
        theta = random.categorical(first, jnp.asarray(_LOG_PRIOR))
        logits = jnp.asarray(slopes)[theta] * design
        return theta, random.accept(second, jax.nn.log_sigmoid(logits)).astype(jnp.int32)

    def log_joint(theta, y, planted):
        linear = jnp.asarray(slopes)[theta] * design
        return _log_prior(theta) + log_likelihood(linear, y, planted)

    return Joint(3, simulate, log_joint)


def _log_bernoulli(logits, y):
    return y * logits - jax.nn.softplus(logits)


def _summed(linear, y, planted):
    each = _log_bernoulli(linear, y)
    return jnp.mean(each) if planted else jnp.sum(each)  # each datum counts a third


def _broadcast(linear, y, planted):
    if planted:  # (N, 1) from the design matrix, (N,) from the data: N x N terms
        linear = linear[:, None]
    return jnp.sum(_log_bernoulli(linear, y))


def _hidden_chain() -> Joint:
    """A hidden chain of two states and two times; the parameter is its path, 2 x_0 + x_1."""
    initial, transition = np.log([0.35, 0.65]), np.log([[0.8, 0.2], [0.45, 0.55]])
    emission = np.log([[0.9, 0.1], [0.3, 0.7]])

    def simulate(key):
        keys = random.split(key, 4)
        x0 = random.categorical(keys[0], jnp.asarray(initial))
        x1 = random.categorical(keys[1], jnp.asarray(transition)[x0])
        y0 = random.categorical(keys[2], jnp.asarray(emission)[x0])
        y1 = random.categorical(keys[3], jnp.asarray(emission)[x1])
        return 2 * x0 + x1, jnp.stack([y0, y1])

    def log_joint(path, y, planted):
        x0, x1 = path // 2, path % 2
        log_initial = jnp.asarray(initial)[x0]
        if planted:  # y_0 is already in the initial density ...
            log_initial += jnp.asarray(emission)[x0, y[0]]
        # ... and again in the loop over times.
        log_likelihood = jnp.asarray(emission)[x0, y[0]] + jnp.asarray(emission)[x1, y[1]]
        return log_initial + jnp.asarray(transition)[x0, x1] + log_likelihood

    return Joint(4, simulate, log_joint)


JOINTS = {
    4: _count(),
    5: _truncated(),
    6: _bernoulli(_summed),
    7: _bernoulli(_broadcast),
    8: _hidden_chain(),
}


def metropolis_given_data(key, state, *, joint, planted):
    """Move the parameter and leave the data: proposals are uniform, hence symmetric."""
    theta, y = state
    proposal_key, accept_key = random.split(key)
    proposal = random.categorical(proposal_key, jnp.zeros(joint.num_values))
    log_ratio = joint.log_joint(proposal, y, planted) - joint.log_joint(theta, y, planted)
    return jnp.where(random.accept(accept_key, log_ratio), proposal, theta), y


def likelihood_check(number, planted, *, by=validate_exactly):
    joint = JOINTS[number]
    step = functools.partial(metropolis_given_data, joint=joint, planted=planted)
    nothing = Atoms(np.zeros((1, 1)), np.ones(1))
    # The law of the simulator, path by path: the density plays no part in it.
    simulated = enumerate_paths(lambda key, _: joint.simulate(key), nothing)
    return by(step, start=simulated, law="reversible")


def likelihood_joint(number, planted):
    joint = JOINTS[number]
    step = functools.partial(metropolis_given_data, joint=joint, planted=planted)
    return validate(step, start=joint.simulate, law="reversible", level=LEVEL)


_LOG_TERMS = np.log([0.7, 0.2, 0.55, 0.9])  # log-likelihood of each datum


def minibatch_terms(key, *, planted):
    """Return the log of minus the log-likelihood, estimated from two data of four."""
    first_key, second_key = random.split(key)
    num, batch = len(_LOG_TERMS), 2
    first = random.categorical(first_key, jnp.zeros(num))
    others = jnp.where(jnp.arange(num) == first, -jnp.inf, 0.0)
    second = random.categorical(second_key, others)
    terms = jnp.asarray(_LOG_TERMS)[jnp.stack([first, second])]
    scale = 1.0 if planted else num / batch  # the batch stands for all of the data
    return jnp.log(-scale * jnp.sum(terms))


def minibatch_check(planted, *, by=validate_exactly):
    estimate = functools.partial(minibatch_terms, planted=planted)
    return by(estimate, expected=float(np.log(-_LOG_TERMS.sum())), law="unbiased")


# ---------------------------------------------------------------- the list


def _jacobian(number, bug, name) -> Mutant:
    checks = {
        "pointwise": functools.partial(jacobian_pointwise, bug),
        "exact start": functools.partial(jacobian_exact_start, bug),
    }
    return Mutant(number, name, FAMILY, checks, tuple(checks))


def likelihood_calibration(planted):
    """A fit whose likelihood is the mean over the data, on simulated data sets."""
    estimator = NormalMean("mean of the data" if planted else "")
    return validate(estimator, start=simulate, observed=log_likelihood)


def _likelihood(number, name) -> Mutant:
    checks: dict = {
        **exact_and_sampled(functools.partial(likelihood_check, number)),
        "joint": functools.partial(likelihood_joint, number),
    }
    if number == 6:
        checks["calibration"] = likelihood_calibration
    return Mutant(number, name, FAMILY, checks, tuple(checks))


MUTANTS = (
    _jacobian(1, "missing", "Jacobian of a log, logit or simplex transform missing"),
    _jacobian(2, "wrong sign", "Jacobian with the wrong sign"),
    _jacobian(3, "twice", "Jacobian added twice"),
    _likelihood(4, "normalising constant that depends on a parameter dropped"),
    _likelihood(5, "truncated density not renormalised though the bound is a parameter"),
    _likelihood(6, "mean instead of sum over the data"),
    Mutant(
        6,
        "likelihood of a minibatch not multiplied by N / batch",
        FAMILY,
        exact_and_sampled(minibatch_check),
        ("exact", "sampled"),
    ),
    _likelihood(7, "(N,) against (N, 1) broadcast into N x N terms"),
    _likelihood(8, "likelihood of the first observation used twice"),
)
