"""Metropolis-Hastings: mistakes in the ratio, and in what happens after it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import MALA, Independent, RandomWalk, random
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.measure import PointState
from bayeskit.validation import Atoms, Level, battery, validate
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

FAMILY = "Metropolis-Hastings"
# Few replicates: what these mistakes change is large.
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)


# ---------------------------------------------------------------- on a finite space

# The last state has no mass: its log density is NaN, as after a numerical failure.
_MASS = np.array([0.34, 0.85, 0.51, 0.0])
_LOG_MASS = np.log(np.where(_MASS > 0, _MASS, np.nan))
_PROPOSAL = np.array(
    [[0.1, 0.5, 0.3, 0.1], [0.3, 0.2, 0.4, 0.1], [0.55, 0.15, 0.2, 0.1], [0.2, 0.3, 0.4, 0.1]]
)
_FORGETFUL = np.tile([0.2, 0.3, 0.4, 0.1], (4, 1))


def finite_step(key, state, *, bug, proposal):
    """One Metropolis-Hastings step of a state (place, its log density)."""
    here, cached = state
    proposal_key, accept_key = random.split(key)
    log_q, log_mass = jnp.log(jnp.asarray(proposal)), jnp.asarray(_LOG_MASS)

    def log_ratio_to(there):
        correction = log_q[there, here] - log_q[here, there]
        if bug in ("no correction", "no proposal ratio"):  # as if q were symmetric
            correction = 0.0
        if bug == "inverted":  # q(x'|x) / q(x|x')
            correction = -correction
        return log_mass[there] - cached + correction

    if bug == "drops rejections":
        # The law of the next *accepted* state, as if rejected steps had never been.
        others = jnp.arange(len(_MASS))
        ratios = log_ratio_to(others)
        ratios = jnp.where(jnp.isnan(ratios), -jnp.inf, jnp.minimum(ratios, 0.0))
        there = random.categorical(proposal_key, log_q[here] + ratios)
        return there, log_mass[there]
    there = random.categorical(proposal_key, log_q[here])
    log_ratio = log_ratio_to(there)
    if bug == "squared ratio":  # u < r²
        log_ratio = 2.0 * log_ratio
    if bug == "log u below r":  # holds for every u
        log_ratio = jnp.exp(log_ratio)
    if bug == "accepts NaN":  # "reject if u > r"
        log_ratio = jnp.where(jnp.isnan(log_ratio), 0.0, log_ratio)
    accepted = random.accept(accept_key, log_ratio)
    place = jnp.where(accepted, there, here)
    if bug == "keeps the proposal's density":  # whether or not it was accepted
        return place, log_mass[there]
    return place, jnp.where(accepted, log_mass[there], cached)


def _finite(bug, planted, proposal=_PROPOSAL, *, by=validate_exactly):
    step = functools.partial(finite_step, bug=planted and bug, proposal=proposal)

    def two_steps(key, state):
        first, second = random.split(key)
        return step(second, step(first, state))

    states = np.arange(len(_MASS))
    log_mass = np.where(_MASS > 0, _LOG_MASS, 0.0)  # nobody starts where it is NaN
    alive = _MASS > 0
    start = Atoms((states[alive], log_mass[alive]), _MASS[alive])
    return by(two_steps, start=start, observed=lambda state: state[0])


# ---------------------------------------------------------------- on vectors


@dataclass(frozen=True)
class DriftingWalk(RandomWalk):
    """A random walk that leans to one side, and corrects for it."""

    bug: str = ""

    def step(self, key, state, density, tuning):
        noise_key, accept_key, retry_key = random.split(key, 3)
        if self.bug != "tries once more":
            return self._step((noise_key, accept_key), state, density, tuning)
        # As often written: on rejection, try again, though once only.
        first, info = self._step((noise_key, accept_key), state, density, tuning)
        again, _ = self._step(random.split(retry_key), state, density, tuning)
        return jax.tree.map(lambda a, b: jnp.where(info.accepted, a, b), first, again), info

    def _step(self, keys, state, density, tuning):
        noise_key, accept_key = keys
        x, lean = state.position, 0.2
        noise = random.normal(noise_key, x.shape, x.dtype)
        position = x + tuning.step_size * tuning.scale(noise + lean)
        proposal = PointState(position, density.components(position))
        noise_back = -(noise + 2.0 * lean)
        correction = 0.5 * jnp.sum(noise**2) - 0.5 * jnp.sum(noise_back**2)
        if self.bug == "no correction":  # as if the proposal were symmetric
            correction = 0.0
        if self.bug == "inverted":  # q(x'|x) / q(x|x')
            correction = -correction
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            + correction
        )
        bad = not_usable(proposal.components)
        if self.bug == "squared ratio":  # u < r²
            log_ratio = 2.0 * log_ratio
        if self.bug == "log u below r":  # holds for every u
            log_ratio = jnp.exp(log_ratio)
        if self.bug == "accepts NaN":  # "reject if u > r"
            bad = jnp.isnan(jnp.sum(proposal.components))
            log_ratio, bad = jnp.where(bad, 0.0, log_ratio), jnp.asarray(False)
        after, info = metropolis(accept_key, state, proposal, log_ratio, bad)
        if self.bug == "keeps the proposal's density":  # whether or not it was accepted
            after = after._replace(components=proposal.components)
        return after, info


@dataclass(frozen=True)
class Langevin(MALA):
    """MALA with its two proposal densities spelt out."""

    bug: str = ""

    def step(self, key, state, density, tuning):
        noise_key, accept_key = random.split(key)
        x, h = state.position, tuning.step_size
        noise = random.normal(noise_key, x.shape, x.dtype)
        drift = 0.5 * h**2 * tuning.scale_transposed(state.gradient)
        position = x + tuning.scale(drift + h * noise)
        proposal = PointState(position, *density.components_and_gradient(position))
        # The way back starts at the proposal, and so does its drift.
        gradient = state.gradient if self.bug == "wrong end" else proposal.gradient
        drift_back = 0.5 * h**2 * tuning.scale_transposed(gradient)
        move_back = -(drift + h * noise)
        # h is a standard deviation, and the density needs the variance.
        variance = h if self.bug == "wrong scale" else h**2
        log_forward = -0.5 * jnp.sum((h * noise) ** 2) / variance
        log_back = -0.5 * jnp.sum((move_back - drift_back) ** 2) / variance
        log_ratio = (
            density.combine(proposal.components)
            - density.combine(state.components)
            + log_back
            - log_forward
        )
        bad = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, bad)


@dataclass(frozen=True)
class Forgetful(Independent):
    """Independent Metropolis-Hastings, with or without the ratio of proposal densities."""

    bug: str = ""

    def _log_proposal(self, position, tuning):
        if self.bug == "no proposal ratio":
            return jnp.zeros((), position.dtype)
        return super()._log_proposal(position, tuning)


def _exact_start(double, bug, planted):
    kernel = double(bug=bug if planted else "")
    # One retry shifts little, so it takes more replicates to see.
    level = "quick" if bug == "tries once more" else LEVEL
    return validate(kernel, battery()["skewed"], level=level, key=9)


def _quadrature(double, bug, planted):
    kernel = double(bug=bug if planted else "")
    return validate(kernel, battery()["skewed_1d"], level="quadrature")


def _ranks(double, bug, planted):
    kernel = double(bug=bug if planted else "")
    return validate(kernel, battery()["skewed"], level="ranks", key=9)


def _mutant(
    number, name, bug, *, double=DriftingWalk, finite=True, proposal=_PROPOSAL, blind=()
):
    checks = {
        **exact_and_sampled(functools.partial(_finite, bug, proposal=proposal)),
        "quadrature": functools.partial(_quadrature, double, bug),
        "exact start": functools.partial(_exact_start, double, bug),
        "ranks": functools.partial(_ranks, double, bug),
    }
    if not finite:
        del checks["exact"], checks["sampled"]
    found_by = tuple(check for check in checks if check not in blind)
    return Mutant(number, name, FAMILY, checks, found_by)


MUTANTS = (
    _mutant(9, "no Hastings correction for an asymmetric proposal", "no correction"),
    _mutant(10, "Hastings correction inverted", "inverted"),
    _mutant(
        11,
        "MALA takes the drift of the way back from the wrong end",
        "wrong end",
        double=Langevin,
        finite=False,
    ),
    _mutant(
        12,
        "proposal log density with scale h in place of h²",
        "wrong scale",
        double=Langevin,
        finite=False,
    ),
    _mutant(13, "accepts if u < r²", "squared ratio"),
    _mutant(13, "accepts if log u < r", "log u below r"),
    _mutant(14, "a rejection keeps the proposal's log density", "keeps the proposal's density"),
    Mutant(
        15,
        "a rejected step is dropped instead of repeated",
        FAMILY,
        exact_and_sampled(functools.partial(_finite, "drops rejections")),
        ("exact", "sampled"),
    ),
    _mutant(
        15,
        "a rejected step is tried once more",
        "tries once more",
        finite=False,
        blind=("ranks",),
    ),
    _mutant(16, "accepts when the ratio is NaN", "accepts NaN", blind=("quadrature", "ranks")),
    _mutant(
        17,
        "independent Metropolis-Hastings without the proposal ratio",
        "no proposal ratio",
        double=Forgetful,
        proposal=_FORGETFUL,
    ),
)
