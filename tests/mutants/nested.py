"""Planted bugs 86 to 89: SMC², where each particle is a parameter with a filter of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import extend, random, resample, spawn, weigh, when
from bayeskit.inference.blocks import Resample
from bayeskit.inference.law import Measure, Tagged
from bayeskit.validation import Atoms
from tests.inference.finite_models import log_table, path_measure, random_chain
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

_FAMILY = "SMC² and nested filters"

# Two parameters with a hidden Markov model each, two times.
_CHAINS = [random_chain(num_steps=2, seed=seed, guided=False) for seed in (4, 5)]
_LOG_INITIAL = np.stack([chain.log_initial for chain in _CHAINS])
_LOG_TRANSITION = np.stack([chain.log_transition for chain in _CHAINS])
_LOG_POTENTIAL = np.stack([chain.log_potential for chain in _CHAINS])
_LOG_PRIOR = np.log([0.35, 0.65])
_LOG_PROPOSAL = np.log([[0.4, 0.6], [0.8, 0.2]])  # for θ
_SLOTS = 2  # of an inner filter; it may use fewer

# What the outer particles stand for, at either time: prior times likelihood.
_START, _FIRST, _LAST = Measure("p(θ, u)"), Measure("γ0(θ, u)"), Measure("γ1(θ, u)")
_POSTERIOR = Atoms(
    np.arange(2, dtype=np.int32),
    np.exp(_LOG_PRIOR) * [path_measure(chain).mass.sum() for chain in _CHAINS],
)


# ---------------------------------------------------------------- the inner filter


class _Filter(NamedTuple):
    """An inner filter after some steps."""

    states: Any  # (slots,)
    log_weights: Any  # (slots,), not normalised, -inf where a slot is not used
    log_estimate: Any  # of the likelihood so far


class _Particle(NamedTuple):
    """A parameter with its filter."""

    parameter: Any
    filter: _Filter


def _weighed_filter(parameter, t, states, used, log_estimate=0.0):
    log_weights = log_table(_LOG_POTENTIAL)[parameter, t, states]
    log_weights = jnp.where(used, log_weights, -jnp.inf)
    increment = jax.nn.logsumexp(log_weights) - jnp.log(used.sum())
    return _Filter(jnp.where(used, states, 0), log_weights, log_estimate + increment)


def _started(key, parameter, num_used):
    """Return the filter of a parameter at time 0, with some of its slots in use."""
    states = random.categorical(key, log_table(_LOG_INITIAL)[parameter], _SLOTS)
    return _weighed_filter(parameter, 0, states, jnp.arange(_SLOTS) < num_used)


def _stepped(key, parameter, inner):
    """Return the filter one step later: resample, move, weigh."""
    resample_key, move_key = random.split(key)
    ancestors = random.categorical(resample_key, inner.log_weights, _SLOTS)
    log_rows = log_table(_LOG_TRANSITION)[parameter, inner.states[ancestors]]
    states = random.categorical(move_key, log_rows)
    used = inner.log_weights > -jnp.inf
    return _weighed_filter(parameter, 1, states, used, inner.log_estimate)


# ---------------------------------------------------------------- the outer sampler


def _spawned(num_used, num_particles=2):
    """Parameters from the prior with a filter each, weighed by the first estimate."""

    def initial(key):
        prior_key, filter_key = random.split(key)
        parameter = random.categorical(prior_key, log_table(_LOG_PRIOR))
        return _Particle(parameter, _started(filter_key, parameter, num_used))

    def first_estimate(stage, particle):
        return particle.filter.log_estimate

    first = Tagged(first_estimate, _START, _FIRST, "first estimate")
    return spawn(initial, num_particles, _START) >> weigh(first)


def _gained(stage, before, after):
    return after.filter.log_estimate - before.filter.log_estimate


def _step():
    """Move every filter one step on; its parameter gains what the estimate gains."""

    def kernel(key, stage, particle):
        return particle._replace(filter=_stepped(key, particle.parameter, particle.filter))

    return extend(kernel, Tagged(_gained, _FIRST, _LAST, "filter step"))


def _exchange(num_used, planted=False):
    """Give every parameter a new filter with another number of inner particles."""

    def kernel(key, stage, particle):
        return particle._replace(filter=_started(key, particle.parameter, num_used))

    def unweighed(stage, before, after):
        # The mistake: the new estimate takes the place of the old one for nothing.
        return jnp.zeros_like(after.filter.log_estimate)

    ratio = unweighed if planted else _gained
    return extend(kernel, Tagged(ratio, _FIRST, _FIRST, "new filter over old filter"))


def _check(block, by):
    observed = lambda particles: particles.parameter
    return by(block, expected=_POSTERIOR, observed=observed)


@dataclass(frozen=True, eq=False, repr=False)
class _ResampleParameters(Resample):
    """Resampling with the mistake: filters stay where they are, parameters are copied."""

    def run(self, key, population=None):
        after, info = super().run(key, population)
        particles = after.particles._replace(filter=population.particles.filter)
        return after._replace(particles=particles), info


def _copied(planted, *, by=validate_exactly):
    scheme = _ResampleParameters("multinomial") if planted else resample("multinomial")
    return _check(_spawned(num_used=2) >> scheme >> _step(), by)


def _exchanged(planted, *, by=validate_exactly):
    exchange = _exchange(num_used=2, planted=planted)
    return _check(_spawned(num_used=1) >> resample("multinomial") >> exchange >> _step(), by)


def _triggered(planted, *, by=validate_exactly):
    def is_noisy(population):
        """Tell whether estimates of one and the same likelihood differ much."""
        parameters, inner = population.particles
        pairs = parameters[:, None] == parameters
        if planted:
            # The mistake: likelihoods of different parameters differ without any noise.
            pairs = jnp.ones_like(pairs)
        difference = inner.log_estimate[:, None] - inner.log_estimate
        return jnp.sum(jnp.where(pairs, difference**2, 0.0)) > 0.05 * jnp.sum(pairs)

    change = when(is_noisy, _exchange(num_used=2))
    return _check(_spawned(num_used=1) >> resample("multinomial") >> change >> _step(), by)


# ---------------------------------------------------------------- moving a parameter


def _marginal_step(key, state, *, planted):
    """Particle marginal Metropolis at the last time: propose θ, run a filter up to here."""
    proposal_key, start_key, step_key, accept_key = random.split(key, 4)
    log_prior, q = log_table(_LOG_PRIOR), log_table(_LOG_PROPOSAL)
    parameter, log_estimate = state
    new = random.categorical(proposal_key, q[parameter]).astype(parameter.dtype)
    inner = _started(start_key, new, _SLOTS)
    if not planted:
        # Left out, the new estimate is of the first observation alone.
        inner = _stepped(step_key, new, inner)
    log_ratio = (
        log_prior[new]
        + inner.log_estimate
        - log_prior[parameter]
        - log_estimate
        + q[new, parameter]
        - q[parameter, new]
    )
    accepted = random.accept(accept_key, log_ratio)
    return (
        jnp.where(accepted, new, parameter),
        jnp.where(accepted, inner.log_estimate, log_estimate),
    )


def _extended_target():
    """The measure of θ and the log of its estimate: prior times estimate times its own law."""
    states, masses = [], []
    pairs = list(itertools.product(range(2), repeat=2))
    for parameter, first, origin, last in itertools.product(range(2), pairs, pairs, pairs):
        weights = np.exp(_LOG_POTENTIAL[parameter, 0, list(first)])
        chosen = np.log(weights / weights.sum())[list(origin)].sum()
        rows = _LOG_TRANSITION[parameter, [first[i] for i in origin]]
        log_law = (
            _LOG_INITIAL[parameter, list(first)].sum()
            + chosen
            + rows[range(2), list(last)].sum()
        )
        later = np.exp(_LOG_POTENTIAL[parameter, 1, list(last)])
        log_estimate = np.log(weights.mean()) + np.log(later.mean())
        states.append((parameter, log_estimate))
        masses.append(np.exp(_LOG_PRIOR[parameter] + log_law + log_estimate))
    parameter, log_estimate = zip(*states, strict=True)
    columns = np.array(parameter, np.int32), np.array(log_estimate)
    return Atoms(columns, np.array(masses))


def _restarted(planted, *, by=validate_exactly):
    step = partial(_marginal_step, planted=planted)
    # The estimate is no part of the posterior, and two programs round it differently.
    observed = lambda state: state[0]
    return by(step, start=_extended_target(), observed=observed, law="reversible")


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        86,
        "parameter copied without its inner particles",
        _FAMILY,
        exact_and_sampled(_copied),
        ("exact", "sampled"),
    ),
    Mutant(
        87,
        "number of inner particles changed without the exchange weight",
        _FAMILY,
        exact_and_sampled(_exchanged),
        ("exact", "sampled"),
    ),
    Mutant(
        88,
        "more inner particles when estimates differ across parameters",
        _FAMILY,
        # With either trigger the sampler adapts, keeps law L10 and no other, and the check is
        # inconclusive: the mistake wastes time, and no check of a law can object.
        exact_and_sampled(_triggered),
        (),
    ),
    Mutant(
        89,
        "filter of a proposed parameter not run up to the present",
        _FAMILY,
        exact_and_sampled(_restarted),
        ("exact", "sampled"),
    ),
)
