"""Planted bugs 33 to 39: slices, elliptical slices, delayed rejection, multiple try."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import EllipticalSlice, NormalPrior, Slice, Target, random
from bayeskit.validation import Atoms, battery, validate
from tests.inference.finite_models import log_table
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

_FAMILY = "Slices, delayed rejection and multiple try"

# The mistakes of slice sampling.
_UNSPLIT = "33 limits not split"
_HEIGHT = "34 height u log γ"
_MIDDLE = "37 shrunk towards the middle"


# ---------------------------------------------------------------- slices of a finite space

# Two hills: a slice may have a hole, without which the middle is as good as the current point.
# The masses exceed 1, so that u log γ lies below log γ and looks like a height.
_HILLS = np.array([3.1, 8.7, 1.4, 5.6, 2.2])
_NUM_STATES = len(_HILLS)
_WIDTH = 2
_NUM_STEPS_OUT = 3
_NUM_ROUNDS = 4


def _finite_slice_step(key, x, *, planted=""):
    """Slice sampling on 0 .. 4, from an interval of two states that steps out by two."""
    height_key, place_key, split_key, *shrink_keys = random.split(key, 3 + _NUM_ROUNDS)
    log_gamma = log_table(np.log(_HILLS))
    # u is compared with γ(z) / γ(x) alone.
    by_log = planted == _HEIGHT
    heights = log_gamma / log_gamma[x] if by_log else jnp.exp(log_gamma - log_gamma[x])
    u = random.piecewise_uniform(height_key, (), lambda: heights).astype(log_gamma.dtype)
    # The mistake: logs are multiplied by u, which depends on the scale of γ.
    log_height = u * log_gamma[x] if by_log else log_gamma[x] + jnp.log(u)

    def in_slice(z):
        inside = (z >= 0) & (z < _NUM_STATES)
        return inside & (log_gamma[jnp.clip(z, 0, _NUM_STATES - 1)] > log_height)

    # The interval is [low, high).
    low = x - random.categorical(place_key, jnp.zeros(_WIDTH))
    high = low + _WIDTH
    left = random.categorical(split_key, jnp.zeros(_NUM_STEPS_OUT))
    if planted == _UNSPLIT:
        # The mistake: always half of the steps to either side.
        left = _NUM_STEPS_OUT // 2
    for number in range(_NUM_STEPS_OUT - 1):
        low = jnp.where((number < left) & in_slice(low), low - _WIDTH, low)
        room = number < _NUM_STEPS_OUT - 1 - left
        high = jnp.where(room & in_slice(high), high + _WIDTH, high)

    # Where the rounds run out x stays: as likely on the way back.
    states = jnp.arange(_NUM_STATES)
    y, done = x, jnp.asarray(False)
    for shrink_key in shrink_keys:
        bracket = (states >= low) & (states < high)
        z = random.categorical(shrink_key, jnp.where(bracket, 0.0, -jnp.inf)).astype(x.dtype)
        found = ~done & in_slice(z) & bracket.any()
        y, done = jnp.where(found, z, y), done | found
        # The mistake: the bracket keeps its middle and may lose x.
        below = z < ((low + high) // 2 if planted == _MIDDLE else x)
        low = jnp.where(~done & below, z + 1, low)
        high = jnp.where(~done & ~below, z, high)
    return y


def _finite_slice(mistake, planted, *, by=validate_exactly):
    step = partial(_finite_slice_step, planted=mistake if planted else "")
    start = Atoms(np.arange(_NUM_STATES, dtype=np.int32), _HILLS)
    return by(step, start=start, law="reversible")


# ---------------------------------------------------------------- slices of a line


@dataclass(frozen=True)
class _Slice(Slice):
    """The slice sampler, with short intervals, and its mistakes."""

    max_steps_out: int = 3
    planted: str = ""

    def default_step_size(self, dim):
        return 1.0

    def _log_height(self, key, log_density):
        if self.planted != _HEIGHT:
            return super()._log_height(key, log_density)
        # The mistake: u multiplies the log density instead of the density.
        return log_density * random.uniform(key, (), log_density.dtype)

    def _steps_to_the_left(self, key):
        if self.planted != _UNSPLIT:
            return super()._steps_to_the_left(key)
        # The mistake: always half of the steps to either side.
        return jnp.asarray(self.max_steps_out // 2)


def _slice(mistake, planted):
    kernel = _Slice(planted=mistake if planted else "")
    return validate(kernel, battery()["two_modes"], num_steps=1)


# ---------------------------------------------------------------- elliptical slices

# A normal prior and one observation of a sum of the coordinates: the posterior is normal.
_PRIOR_MEAN = (1.0, -0.5)
_PRIOR_SCALE = (0.8, 1.5)
_STALE_MEAN = (0.6, -0.5)
_SLOPE = np.array([1.0, 0.7])
_OBSERVED, _NOISE = 2.2, 0.9


def _conjugate_target():
    mean, scale = np.array(_PRIOR_MEAN), np.array(_PRIOR_SCALE)
    covariance = np.linalg.inv(np.diag(scale**-2.0) + np.outer(_SLOPE, _SLOPE) / _NOISE**2)
    centre = covariance @ (mean / scale**2 + _SLOPE * _OBSERVED / _NOISE**2)
    factor = np.linalg.cholesky(covariance)

    def sample(key):
        return log_table(centre) + log_table(factor) @ random.normal(key, (2,))

    def log_likelihood(x):
        return -0.5 * ((_OBSERVED - log_table(_SLOPE) @ x) / _NOISE) ** 2

    return Target(
        log_prior=lambda x: -0.5 * jnp.sum(((x - log_table(mean)) / log_table(scale)) ** 2),
        log_likelihood=log_likelihood,
        sample_exact=sample,
        name="conjugate normal",
    )


_CONJUGATE = _conjugate_target()


class _OnPosterior(EllipticalSlice):
    """The mistake: the ellipse accounts for the prior already."""

    def relative(self, density):
        return density


def _on_posterior(planted):
    prior = NormalPrior(_PRIOR_MEAN, scale=_PRIOR_SCALE)
    kernel = (_OnPosterior if planted else EllipticalSlice)(prior)
    return validate(kernel, _CONJUGATE, num_steps=1)


def _stale_mean(planted):
    # The mistake: the mean of the prior has moved since the kernel was built.
    mean = _STALE_MEAN if planted else _PRIOR_MEAN
    kernel = EllipticalSlice(NormalPrior(mean, scale=_PRIOR_SCALE))
    return validate(kernel, _CONJUGATE, num_steps=1)


# ---------------------------------------------------------------- tables of proposals

_RNG = np.random.default_rng(38)
_MASS = _RNG.dirichlet(np.ones(3))
_LOG_MASS = np.log(_MASS)
_LOG_FIRST = np.log(_RNG.dirichlet(np.ones(3), 3))  # q1(x, y)
_LOG_SECOND = np.log(_RNG.dirichlet(np.ones(3), (3, 3)))  # q2(x, y, z): from x, y rejected
_THREE_STATES = Atoms(np.arange(3, dtype=np.int32), _MASS)


def _delayed_rejection_step(key, x, *, planted):
    """A second proposal, which sees the first, where the first is rejected."""
    first_key, accept_key, second_key, again_key = random.split(key, 4)
    log_pi, first, second = log_table(_LOG_MASS), log_table(_LOG_FIRST), log_table(_LOG_SECOND)

    def log_ratio(here, there):
        return log_pi[there] + first[there, here] - log_pi[here] - first[here, there]

    def log_rejection(here, there):
        return jnp.log1p(-jnp.exp(jnp.minimum(log_ratio(here, there), 0.0)))

    def log_flow(here, middle, there):
        """Log of π(here) q1 q2 times the probability that the first is rejected."""
        path = log_pi[here] + first[here, middle] + second[here, middle, there]
        # The mistake: nobody asks whether the way back would be rejected first.
        return path if planted else path + log_rejection(here, middle)

    y = random.categorical(first_key, first[x])
    accepted = random.accept(accept_key, log_ratio(x, y))
    z = random.categorical(second_key, second[x, y])
    again = random.accept(again_key, log_flow(z, y, x) - log_flow(x, y, z))
    return jnp.where(accepted, y, jnp.where(again, z, x)).astype(x.dtype)


def _delayed_rejection(planted, *, by=validate_exactly):
    step = partial(_delayed_rejection_step, planted=planted)
    return by(step, start=_THREE_STATES, law="reversible")


_FROM_CURRENT = "39 reference points from the current point"
_WITHOUT_CURRENT = "39 current point missing"


def _multiple_try_step(key, x, *, planted=""):
    """Two tries, weighed by π(y) q(y, x); two reference points, the second of which is x."""
    try_key, choice_key, reference_key, accept_key = random.split(key, 4)
    log_pi, q = log_table(_LOG_MASS), log_table(_LOG_FIRST)

    def log_weights(points, origin):
        return log_pi[points] + q[points, origin]

    tries = random.categorical(try_key, q[x], 2)
    y = tries[random.categorical(choice_key, log_weights(tries, x))]
    # The mistake: they must come from the chosen try, as its own tries would.
    origin = x if planted == _FROM_CURRENT else y
    references = random.categorical(reference_key, q[origin], 2)
    if planted != _WITHOUT_CURRENT:
        # Left out, the way back has no try that leads to x.
        references = references.at[1].set(x)
    log_ratio = jax.nn.logsumexp(log_weights(tries, x)) - jax.nn.logsumexp(
        log_weights(references, y)
    )
    return jnp.where(random.accept(accept_key, log_ratio), y, x).astype(x.dtype)


def _multiple_try(mistake, planted, *, by=validate_exactly):
    step = partial(_multiple_try_step, planted=mistake if planted else "")
    return by(step, start=_THREE_STATES, law="reversible")


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        33,
        "stepping out with half of the steps to either side, not split at random",
        _FAMILY,
        {
            **exact_and_sampled(partial(_finite_slice, _UNSPLIT)),
            "exact start": partial(_slice, _UNSPLIT),
        },
        ("exact", "sampled", "exact start"),
    ),
    Mutant(
        34,
        "slice height u log γ instead of log γ + log u",
        _FAMILY,
        {
            **exact_and_sampled(partial(_finite_slice, _HEIGHT)),
            "exact start": partial(_slice, _HEIGHT),
        },
        ("exact", "sampled", "exact start"),
    ),
    Mutant(
        35,
        "elliptical slice on the posterior instead of the likelihood",
        _FAMILY,
        {"exact start": _on_posterior},
        ("exact start",),
    ),
    Mutant(
        36,
        "elliptical slice around a stale prior mean",
        _FAMILY,
        {"exact start": _stale_mean},
        ("exact start",),
    ),
    Mutant(
        37,
        "bracket shrunk towards its middle, not towards the current point",
        _FAMILY,
        # Where no slice has a hole the law holds; on the hills the change is 0.008 deviations.
        exact_and_sampled(partial(_finite_slice, _MIDDLE)),
        ("exact",),
    ),
    Mutant(
        38,
        "second stage of delayed rejection without 1 - α₁",
        _FAMILY,
        exact_and_sampled(_delayed_rejection),
        ("exact", "sampled"),
    ),
    Mutant(
        39,
        "reference points of multiple try drawn from the current point",
        _FAMILY,
        exact_and_sampled(partial(_multiple_try, _FROM_CURRENT)),
        ("exact", "sampled"),
    ),
    Mutant(
        39,
        "reference points of multiple try without the current point",
        _FAMILY,
        exact_and_sampled(partial(_multiple_try, _WITHOUT_CURRENT)),
        ("exact", "sampled"),
    ),
)
