"""Mutants 90 to 97: random keys used twice, rounding, infinities, NaN and supports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.validation import Atoms, Level, validate
from tests.inference.finite_models import log_table
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

FAMILY = "Random numbers and numerics"
# Few replicates: what these mistakes change is large.
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)


# ---------------------------------------------------------------- keys

_SIGN, _SCALE = np.array([0.3, 0.7]), np.array([0.2, 0.5, 0.3])
_SCALED_SIGNS = Atoms(
    np.outer([-1.0, 1.0], [1.0, 2.0, 3.0]).ravel(), np.outer(_SIGN, _SCALE).ravel()
)


def scaled_sign(key, *, planted):
    """A scale mixture with finitely many values."""
    sign_key, scale_key = random.split(key)
    sign = jnp.array([-1.0, 1.0])[random.categorical(sign_key, jnp.log(_SIGN))]
    # The mistake: the scale is drawn with the key of the sign.
    scale = random.categorical(sign_key if planted else scale_key, jnp.log(_SCALE))
    return sign * (1.0 + scale)


def scale_mixture_keys(planted):
    sampler = functools.partial(scaled_sign, planted=planted)
    return validate(sampler, expected=_SCALED_SIGNS, law="draws")


def student_t(key, *, planted):
    """A pair with Student's t distribution: normals over the root of a chi-square variable."""
    noise_key, scale_key = random.split(key)
    noise = random.normal(noise_key, (2,))
    other = random.normal(noise_key if planted else scale_key, (2,))
    return noise / jnp.sqrt(jnp.mean(other**2))


def student_t_by_inversion(key):
    """The same: half a chi-square variable with two degrees of freedom is exponential."""
    noise_key, scale_key = random.split(key)
    exponential = -jnp.log1p(-random.uniform(scale_key))
    return random.normal(noise_key, (2,)) / jnp.sqrt(exponential)


def student_t_same_law(planted):
    sampler = functools.partial(student_t, planted=planted)
    return validate(sampler, expected=student_t_by_inversion, law="same", level=LEVEL)


_RNG = np.random.default_rng(91)
_CHAIN = _RNG.dirichlet(np.ones(2), 2)
_STATIONARY = np.array([_CHAIN[1, 0], _CHAIN[0, 1]]) / (_CHAIN[1, 0] + _CHAIN[0, 1])
_TWO_CHAINS = Atoms(
    np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32),
    np.outer(_STATIONARY, _STATIONARY).ravel(),
)


def two_chains(key, states, *, step, planted):
    """Move two independent chains."""
    if planted:
        # The mistake: each chain gets the same key.
        return jax.vmap(lambda state: step(key, state))(states)
    return random.lanes(step, key, states)


def flip(key, state):
    return random.categorical(key, log_table(np.log(_CHAIN))[state])


def autoregression(key, state):
    return 0.6 * state + 0.8 * random.normal(key)


def chains_keys(planted):
    step = functools.partial(two_chains, step=flip, planted=planted)
    return validate(step, start=_TWO_CHAINS)


def chains_joint(planted):
    step = functools.partial(two_chains, step=autoregression, planted=planted)
    return validate(step, start=lambda key: random.normal(key, (2,)), level=LEVEL)


# ---------------------------------------------------------------- a million particles


@functools.partial(jax.jit, static_argnames=("num", "dtype"))
def _systematic(key, log_weights, num, dtype):
    cdf = jnp.cumsum(jnp.exp(log_weights - jnp.max(log_weights)), dtype=dtype)
    points = (jnp.arange(num) + jax.random.uniform(key, dtype=jnp.float64)) / num
    index = jnp.searchsorted(cdf, points * cdf[-1], side="right")
    return jnp.minimum(index, len(cdf) - 1).astype(jnp.int32)


def systematic_sums(key, log_weights, num, *, planted):
    """Systematic resampling of float32 weights with cumulative sums of 53 bits."""
    # The mistake: the sums keep 24 bits.
    dtype = jnp.float32 if planted else jnp.float64
    with jax.enable_x64(True):
        return _systematic(key, log_weights, num, dtype)


def at_scale(planted):
    scheme = functools.partial(systematic_sums, planted=planted)
    return validate(scheme, expected="systematic", law="resampling", level="scale")


# ---------------------------------------------------------------- logarithms

_PRIOR = np.array([0.5, 0.3, 0.2])


def log_mean_exp(log_w, *, mistake=""):
    """Return the log of the mean of exp(log_w), by hand."""
    shift = jnp.max(jnp.where(jnp.isnan(log_w), -jnp.inf, log_w))
    if mistake == "no shift":
        shift = 0.0
    elif mistake != "all zero":
        # Infinity less infinity is no number.
        shift = jnp.where(jnp.isfinite(shift), shift, 0.0)
    relative = log_w - shift
    if mistake != "all zero":
        # A weight that is no number counts as zero; the mistake counts it as the largest.
        lost = 0.0 if mistake == "NaN is the largest" else -jnp.inf
        relative = jnp.where(jnp.isnan(relative), lost, relative)
    return shift + jnp.log(jnp.mean(jnp.exp(relative)))


def importance_estimate(key, log_g, *, mistake=""):
    """Two importance sampling estimates of two particles each, multiplied."""

    def factor(part_key, values):
        states = random.categorical(part_key, jnp.log(_PRIOR), 2)
        return log_mean_exp(log_table(values)[states], mistake=mistake)

    return sum(factor(k, v) for k, v in zip(random.split(key), log_g, strict=True))


def estimate_with(mistake, first, second):
    """The mean of the product is the product of the means."""
    log_g = np.array([first, second])
    usable = np.where(np.isnan(log_g), -np.inf, log_g)
    log_z = np.logaddexp.reduce(np.log(_PRIOR) + usable, axis=1).sum()

    def check(planted, *, by=validate_exactly):
        estimate = functools.partial(
            importance_estimate, log_g=log_g, mistake=mistake if planted else ""
        )
        return by(estimate, expected=float(log_z), law="unbiased")

    return check


# ---------------------------------------------------------------- supports

_LOG_MASS = np.array([0.2, -0.5, 0.4, 0.9])  # the last state lies outside
_INSIDE = np.array([1.0, 1.0, 1.0, 0.0])
_RESTRICTED = Atoms(np.arange(4, dtype=np.int32), np.exp(_LOG_MASS) * _INSIDE)


def restricted_walk(key, state, *, planted):
    """Metropolis on four states of which one is forbidden."""
    propose_key, accept_key = random.split(key)
    proposal = (state + 1 + random.categorical(propose_key, jnp.zeros(3))) % 4
    log_ratio = log_table(_LOG_MASS)[proposal] - log_table(_LOG_MASS)[state]
    if not planted:
        log_ratio += log_table(np.where(_INSIDE > 0, 0.0, -np.inf))[proposal]
    return jnp.where(random.accept(accept_key, log_ratio), proposal, state).astype(jnp.int32)


def restricted_check(planted, *, by=validate_exactly):
    step = functools.partial(restricted_walk, planted=planted)
    return by(step, start=_RESTRICTED, law="reversible")


def half_normal_walk(key, x, *, planted):
    """Random-walk Metropolis on the positive half of a normal distribution."""
    propose_key, accept_key = random.split(key)
    proposal = x + random.normal(propose_key)
    log_ratio = 0.5 * (x**2 - proposal**2)
    if not planted:
        log_ratio = jnp.where(proposal > 0, log_ratio, -jnp.inf)
    return jnp.where(random.accept(accept_key, log_ratio), proposal, x)


def half_normal_joint(planted):
    step = functools.partial(half_normal_walk, planted=planted)
    return validate(step, start=lambda key: jnp.abs(random.normal(key)), level=LEVEL)


_DIE = Atoms(np.arange(1, 7), np.ones(6))


def die(key, *, planted):
    """One of 1, ..., 6."""
    u = random.piecewise_uniform(key, (), lambda: jnp.arange(1, 12) / 12)
    # The mistake: rounding gives seven values, and half the mass to either end.
    whole = jnp.round(6.0 * u) if planted else jnp.floor(6.0 * u)
    return 1 + whole.astype(jnp.int32)


def die_check(planted, *, by=validate_exactly):
    return by(functools.partial(die, planted=planted), expected=_DIE, law="draws")


# ---------------------------------------------------------------- the list


def mutant(number, name, checks):
    return Mutant(
        number=number, name=name, family=FAMILY, checks=checks, found_by=tuple(checks)
    )


MUTANTS: tuple[Mutant, ...] = (
    mutant(
        90,
        "one key for numerator and denominator of Student's t",
        {"keys": scale_mixture_keys, "same law": student_t_same_law},
    ),
    mutant(
        91,
        "vmap over chains with one key",
        {"keys": chains_keys, "joint": chains_joint},
    ),
    mutant(92, "cumulative sums in float32 at a million particles", {"scale": at_scale}),
    mutant(
        93,
        "logsumexp without the shift by the largest",
        exact_and_sampled(
            estimate_with("no shift", [-800.0, -801.0, -799.5], [800.5, 799.0, 800.0])
        ),
    ),
    mutant(
        94,
        "a weight of NaN counts as the largest",
        exact_and_sampled(
            estimate_with("NaN is the largest", [0.3, np.nan, -0.4], [0.1, 0.5, -0.2])
        ),
    ),
    mutant(
        95,
        "weights that are all zero give NaN",
        exact_and_sampled(
            estimate_with("all zero", [0.3, -np.inf, -0.4], [-np.inf, 0.5, -np.inf])
        ),
    ),
    mutant(
        96,
        "the support is ignored on accept",
        {**exact_and_sampled(restricted_check), "joint": half_normal_joint},
    ),
    mutant(97, "discrete draws outside of the support", exact_and_sampled(die_check)),
)
