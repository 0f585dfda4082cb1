"""Planted bugs 40 to 48: blocks of coordinates, mixtures, tempering swaps, pseudo-marginals."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.kernels import Kernel
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.measure import PointState
from bayeskit.validation import Atoms, battery, validate
from tests.inference.finite_models import log_table
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

_FAMILY = "Composition"
_RNG = np.random.default_rng(40)


def _log_rows(*shape):
    """Rows of unequal probabilities, as logs."""
    return np.log(_RNG.dirichlet(np.ones(shape[-1]), shape[:-1]))


# ---------------------------------------------------------------- blocks of coordinates

_LOG_JOINT = _log_rows(6).reshape(3, 2)  # of the pair (a, b)
_LOG_PROPOSAL = _log_rows(3, 3)  # for a
_PAIRS = np.array(list(itertools.product(range(3), range(2))), np.int32)
_JOINT_MASS = np.exp(_LOG_JOINT).ravel()
_JOINT = Atoms((_PAIRS[:, 0], _PAIRS[:, 1]), _JOINT_MASS)


def _gibbs_step(key, state, *, planted):
    """Draw a given b, then b given a."""
    first_key, second_key = random.split(key)
    log_pi = log_table(_LOG_JOINT)
    old, b = state
    a = random.categorical(first_key, log_pi[:, b])
    # The mistake: the second block is drawn given what the first one was before.
    return a, random.categorical(second_key, log_pi[old if planted else a])


def _gibbs(planted, *, by=validate_exactly):
    return by(partial(_gibbs_step, planted=planted), start=_JOINT)


_MEANS, _SCALES, _CORRELATION = (0.5, -1.0), (1.0, 2.0), 0.8


def _normal_given(key, here, other):
    """Draw one coordinate of a correlated normal pair given the other: (index, value)."""
    index, value = other
    standard = (value - _MEANS[index]) / _SCALES[index]
    noise = jnp.sqrt(1.0 - _CORRELATION**2) * random.normal(key)
    return _MEANS[here] + _SCALES[here] * (_CORRELATION * standard + noise)


def _normal_gibbs_step(key, state, *, planted):
    """The same two blocks on a plane."""
    first_key, second_key = random.split(key)
    old, b = state
    a = _normal_given(first_key, 0, (1, b))
    return a, _normal_given(second_key, 1, (0, old if planted else a))


def _normal_pair(key):
    first_key, second_key = random.split(key)
    a = _MEANS[0] + _SCALES[0] * random.normal(first_key)
    return a, _normal_given(second_key, 1, (0, a))


def _normal_gibbs(planted):
    return validate(partial(_normal_gibbs_step, planted=planted), start=_normal_pair)


def _cached_step(key, state, *, planted):
    """Draw b given a, then move a by Metropolis-Hastings with a cached log density."""
    gibbs_key, proposal_key, accept_key = random.split(key, 3)
    log_pi, q = log_table(_LOG_JOINT), log_table(_LOG_PROPOSAL)
    a, _, cached = state
    b = random.categorical(gibbs_key, log_pi[a])
    # The mistake: the cached value belongs to the old b.
    here = cached if planted else log_pi[a, b]
    new = random.categorical(proposal_key, q[a])
    there = log_pi[new, b]
    accepted = random.accept(accept_key, there - here + q[new, a] - q[a, new])
    return jnp.where(accepted, new, a), b, jnp.where(accepted, there, here)


def _cached(planted, *, by=validate_exactly):
    start = Atoms((*_JOINT.state, _LOG_JOINT.ravel()), _JOINT_MASS)
    step = partial(_cached_step, planted=planted)
    return by(step, start=start, observed=lambda state: state[:2])


@dataclass(frozen=True)
class _BlockRandomWalk(Kernel):
    """Random-walk Metropolis on one coordinate after the other."""

    planted: bool = False

    name: ClassVar[str] = "random walk by blocks"
    reversible: ClassVar[bool] = False  # a cycle of reversible moves

    def default_step_size(self, dim):
        return 1.5

    def step(self, key, state, density, tuning):
        keys = random.split(key, len(state.position))
        for axis, axis_key in enumerate(keys):
            noise_key, accept_key = random.split(axis_key)
            jump = tuning.step_size * tuning.scale(jnp.eye(len(keys))[axis])
            position = state.position + jump * random.normal(
                noise_key, (), state.position.dtype
            )
            proposal = PointState(position, density.components(position))
            log_ratio = density.combine(proposal.components) - density.combine(state.components)
            broken = not_usable(proposal.components)
            moved, info = metropolis(accept_key, state, proposal, log_ratio, broken)
            if self.planted and axis == 0:
                # The mistake: the next block starts from the value cached before this one.
                moved = moved._replace(components=state.components)
            state = moved
        return state, info


def _cached_walk(planted):
    return validate(_BlockRandomWalk(planted), battery()["skewed"], num_steps=1)


_WEIGHT_OF_A = np.array([0.2, 0.9, 0.5])


def _mixture_step(key, state, *, planted):
    """Draw either a given b or b given a, as a coin says."""
    coin_key, first_key, second_key = random.split(key, 3)
    log_pi = log_table(_LOG_JOINT)
    a, b = state
    # The mistake: the coin knows a, which moving a changes.
    weight = log_table(_WEIGHT_OF_A)[a] if planted else jnp.asarray(0.4)
    move_a = random.accept(coin_key, jnp.log(weight))
    new_a = random.categorical(first_key, log_pi[:, b])
    new_b = random.categorical(second_key, log_pi[a])
    return jnp.where(move_a, new_a, a), jnp.where(move_a, b, new_b)


def _mixture(planted, *, by=validate_exactly):
    return by(partial(_mixture_step, planted=planted), start=_JOINT, law="reversible")


# ---------------------------------------------------------------- parallel tempering

_LOG_PRIOR = _log_rows(3)
_LOG_LIKELIHOOD = np.array([-1.3, 0.8, 0.2])
_BETAS = (0.3, 1.0)
_TEMPERED = [_LOG_PRIOR + beta * _LOG_LIKELIHOOD for beta in _BETAS]
_TWO_CHAINS = np.array(list(itertools.product(range(3), repeat=2)), np.int32)
_PRODUCT = Atoms(_TWO_CHAINS, np.exp(np.add.outer(*_TEMPERED)).ravel())

_TEMPERED_VALUES = "43 tempered values"
_SIGN = "44 sign"


def _swap_log_ratio(log_likelihood, planted=""):
    """Log ratio of swapping two chains, by their untempered log-likelihoods."""
    betas = log_table(_BETAS)
    if planted == _TEMPERED_VALUES:
        # The mistake: the temperatures are in the values already.
        log_likelihood = betas * log_likelihood
    log_ratio = (betas[0] - betas[1]) * (log_likelihood[1] - log_likelihood[0])
    # The mistake: the better state is sent to the flatter density.
    return -log_ratio if planted == _SIGN else log_ratio


def _swap_step(key, x, *, planted=""):
    log_likelihood = log_table(_LOG_LIKELIHOOD)[x]
    swapped = random.accept(key, _swap_log_ratio(log_likelihood, planted))
    return jnp.where(swapped, x[::-1], x)


def _swap(mistake, planted, *, by=validate_exactly):
    step = partial(_swap_step, planted=mistake if planted else "")
    return by(step, start=_PRODUCT, law="reversible")


def _swap_and_move_step(key, state, *, planted):
    """Swap, then move each chain by Metropolis-Hastings with its cached log-likelihood."""
    swap_key, move_key = random.split(key)
    q, log_prior = log_table(_LOG_PROPOSAL), log_table(_LOG_PRIOR)
    x, cached = state
    swapped = random.accept(swap_key, _swap_log_ratio(cached))
    x = jnp.where(swapped, x[::-1], x)
    if not planted:
        # Left out, each position meets the value of the other.
        cached = jnp.where(swapped, cached[::-1], cached)

    def move(lane_key, beta, here, log_likelihood):
        proposal_key, accept_key = random.split(lane_key)
        there = random.categorical(proposal_key, q[here]).astype(here.dtype)
        proposed = log_table(_LOG_LIKELIHOOD)[there]
        log_ratio = (
            log_prior[there]
            - log_prior[here]
            + beta * (proposed - log_likelihood)
            + q[there, here]
            - q[here, there]
        )
        accepted = random.accept(accept_key, log_ratio)
        return jnp.where(accepted, there, here), jnp.where(accepted, proposed, log_likelihood)

    return random.lanes(move, move_key, log_table(_BETAS), x, cached)


def _swap_and_move(planted, *, by=validate_exactly):
    start = Atoms((_TWO_CHAINS, _LOG_LIKELIHOOD[_TWO_CHAINS]), _PRODUCT.mass)
    step = partial(_swap_and_move_step, planted=planted)
    return by(step, start=start, observed=lambda state: state[0])


# ---------------------------------------------------------------- pseudo-marginal Metropolis

_LOG_PARAMETER = _log_rows(2)
_LOG_LATENT = _log_rows(2, 3)  # of the latent z, given θ
_LOG_WEIGHT = np.array([[0.4, -1.1, 0.9], [-0.6, 1.3, -0.2]])  # of the data, given θ and z
_LOG_PARAMETER_PROPOSAL = _log_rows(2, 2)
_NUM_DRAWS = 2

_REESTIMATED = "46 re-estimated"
_OLD_TRAJECTORY = "47 old trajectory"


def _estimate(key, parameter):
    """Return the log of an unbiased estimate of p(y | θ), and a z chosen by its weight."""
    draw_key, choice_key = random.split(key)
    latent = random.categorical(draw_key, log_table(_LOG_LATENT)[parameter], _NUM_DRAWS)
    log_weights = log_table(_LOG_WEIGHT)[parameter, latent]
    log_estimate = jax.nn.logsumexp(log_weights) - jnp.log(_NUM_DRAWS)
    return log_estimate, latent[random.categorical(choice_key, log_weights)]


def _extended_target():
    """The measure of (θ, log of the estimate, z): prior times estimate times its own law."""
    states, masses = [], []
    for parameter, latent in itertools.product(range(2), itertools.product(range(3), repeat=2)):
        weights = np.exp(_LOG_WEIGHT[parameter, list(latent)])
        drawn = _LOG_PARAMETER[parameter] + _LOG_LATENT[parameter, list(latent)].sum()
        for z, weight in zip(latent, weights, strict=True):
            states.append((parameter, np.log(weights.mean()), z))
            masses.append(np.exp(drawn) * weights.mean() * weight / weights.sum())
    parameter, log_estimate, z = zip(*states, strict=True)
    columns = np.array(parameter, np.int32), np.array(log_estimate), np.array(z, np.int32)
    return Atoms(columns, np.array(masses))


def _pseudo_marginal_step(key, state, *, planted=""):
    """Move θ by an estimate of the likelihood that is kept as long as θ is."""
    proposal_key, estimate_key, accept_key, again_key = random.split(key, 4)
    log_prior, q = log_table(_LOG_PARAMETER), log_table(_LOG_PARAMETER_PROPOSAL)
    parameter, log_estimate, z = state
    new = random.categorical(proposal_key, q[parameter]).astype(parameter.dtype)
    new_log_estimate, new_z = _estimate(estimate_key, new)
    if planted == _REESTIMATED:
        # The mistake: a lucky estimate is not paid back.
        log_estimate = _estimate(again_key, parameter)[0]
    log_ratio = (
        log_prior[new]
        + new_log_estimate
        - log_prior[parameter]
        - log_estimate
        + q[new, parameter]
        - q[parameter, new]
    )
    accepted = random.accept(accept_key, log_ratio)
    # The mistake: the new θ is left with a latent value that was drawn for the old one.
    new_z = z if planted == _OLD_TRAJECTORY else new_z.astype(z.dtype)
    return (
        jnp.where(accepted, new, parameter),
        jnp.where(accepted, new_log_estimate, log_estimate),
        jnp.where(accepted, new_z, z),
    )


def _pseudo_marginal(mistake, planted, *, by=validate_exactly):
    step = partial(_pseudo_marginal_step, planted=mistake if planted else "")
    # The estimate is no part of the posterior, and two programs round it differently.
    observed = lambda state: (state[0], state[2])
    return by(step, start=_extended_target(), observed=observed, law="reversible")


# ---------------------------------------------------------------- adaptation

_LOG_SHORT = _log_rows(3, 3)
_LOG_LONG = _log_rows(3, 3)


def _adapted_step(key, state, *, planted):
    """Move the first of two chains by one of two proposals, which the second chooses."""
    move_keys = random.split(key)
    log_pi = log_table(_TEMPERED[1])
    x, other = state
    moved = []
    for move_key, table in zip(move_keys, (_LOG_SHORT, _LOG_LONG), strict=True):
        proposal_key, accept_key = random.split(move_key)
        q = log_table(table)
        y = random.categorical(proposal_key, q[x]).astype(x.dtype)
        log_ratio = log_pi[y] - log_pi[x] + q[y, x] - q[x, y]
        moved.append(jnp.where(random.accept(accept_key, log_ratio), y, x))
    # The mistake: the proposal is the one that has just been accepted.
    chosen = moved[1] != x if planted else other == 0
    return jnp.where(chosen, moved[1], moved[0]), other


def _adapted(planted, *, by=validate_exactly):
    mass = np.exp(np.add.outer(_TEMPERED[1], _TEMPERED[1])).ravel()
    start = Atoms((_TWO_CHAINS[:, 0], _TWO_CHAINS[:, 1]), mass)
    return by(partial(_adapted_step, planted=planted), start=start, law="reversible")


@dataclass(frozen=True)
class _TwoStepSizes(Kernel):
    """Random-walk Metropolis with one of two step sizes."""

    planted: bool = False

    name: ClassVar[str] = "random walk with two step sizes"

    def default_step_size(self, dim):
        return 1.0

    def step(self, key, state, density, tuning):
        coin_key, *move_keys = random.split(key, 3)
        x, moved = state.position, []
        for move_key, factor in zip(move_keys, (0.3, 1.5), strict=True):
            noise_key, accept_key = random.split(move_key)
            noise = tuning.scale(random.normal(noise_key, x.shape, x.dtype))
            position = x + factor * tuning.step_size * noise
            proposal = PointState(position, density.components(position))
            log_ratio = density.combine(proposal.components) - density.combine(state.components)
            broken = not_usable(proposal.components)
            moved.append(metropolis(accept_key, state, proposal, log_ratio, broken))
        # The mistake: the long step is taken whenever it turns out well.
        long = moved[1][1].accepted if self.planted else random.accept(coin_key, jnp.log(0.5))
        return jax.tree.map(lambda short, far: jnp.where(long, far, short), *moved)


def _two_step_sizes(planted):
    return validate(_TwoStepSizes(planted), battery()["two_modes"], num_steps=4)


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        40,
        "a Gibbs block conditions on the previous value of another block",
        _FAMILY,
        {**exact_and_sampled(_gibbs), "joint": _normal_gibbs},
        ("exact", "sampled", "joint"),
    ),
    Mutant(
        41,
        "cached log density not refreshed after another block moved",
        _FAMILY,
        {**exact_and_sampled(_cached), "exact start": _cached_walk},
        ("exact", "sampled", "exact start"),
    ),
    Mutant(
        42,
        "mixture weight depends on the coordinate that is moved",
        _FAMILY,
        exact_and_sampled(_mixture),
        ("exact", "sampled"),
    ),
    Mutant(
        43,
        "tempering swap by tempered log-likelihoods",
        _FAMILY,
        exact_and_sampled(partial(_swap, _TEMPERED_VALUES)),
        ("exact", "sampled"),
    ),
    Mutant(
        44,
        "tempering swap with the opposite sign",
        _FAMILY,
        exact_and_sampled(partial(_swap, _SIGN)),
        ("exact", "sampled"),
    ),
    Mutant(
        45,
        "tempering swap moves the position but not the cached log-likelihood",
        _FAMILY,
        exact_and_sampled(_swap_and_move),
        ("exact", "sampled"),
    ),
    Mutant(
        46,
        "pseudo-marginal step estimates the current likelihood anew",
        _FAMILY,
        exact_and_sampled(partial(_pseudo_marginal, _REESTIMATED)),
        ("exact", "sampled"),
    ),
    Mutant(
        47,
        "particle marginal Metropolis takes the new parameter with the old trajectory",
        _FAMILY,
        exact_and_sampled(partial(_pseudo_marginal, _OLD_TRAJECTORY)),
        ("exact", "sampled"),
    ),
    Mutant(
        48,
        "step size chosen by the outcome of the step it is for",
        _FAMILY,
        {**exact_and_sampled(_adapted), "exact start": _two_step_sizes},
        ("exact", "sampled", "exact start"),
    ),
)
