"""Planted bugs 78 to 85: conditional filters, backward sampling, fixed lags."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import FeynmanKac, extend, random, resample, scan, spawn, weigh
from bayeskit.validation import Atoms
from tests.inference.finite_models import log_table, path_measure, random_chain
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

_FAMILY = "Smoothing"
_CHAIN = random_chain(num_states=2, num_steps=3, seed=3)

_NO_FILTER_WEIGHT = "78 no filter weight"
_SWAPPED_ARGUMENTS = "79 swapped arguments"
_NOT_PINNED = "80 not pinned"
RESAMPLED_PARENT = "81 resampled parent"
_ANCESTOR_UNWEIGHTED = "82 ancestor without W"
_NAIVE_PIN = "83 naive pin"
_NEXT_POPULATION = "84 next population"


# ---------------------------------------------------------------- conditional resampling


def _multinomial(key, log_weights, planted=""):
    """Ancestors of the slots 1, 2, ...: independent of the ancestor of the slot 0."""
    return random.categorical(key, log_weights, len(log_weights) - 1)


def _systematic(key, log_weights, planted=""):
    """Ancestors of the slots 1, 2, ... in random order, given that the slot 0 has ancestor 0.

    Of evenly spaced points on [0, N), one that falls to the particle 0 is uniform on its
    share [0, N W_0) and belongs to the slot 0; the other points follow from it.
    """
    point_key, order_key = random.split(key)
    num = len(log_weights)
    ends = (num * jnp.cumsum(jnp.exp(jax.nn.log_softmax(log_weights)))).at[-1].set(num)
    # The mistake: the points are drawn as if no slot were given, and the slot 0 overwritten.
    width = 1.0 if planted == _NAIVE_PIN else ends[0]

    def breaks():
        # Where one of the points passes from one particle to the next.
        return ((ends[:, None] - jnp.arange(num)) / width).ravel()

    point = width * random.piecewise_uniform(point_key, (), breaks).astype(ends.dtype)
    points = (point + jnp.arange(1, num)) % num
    ancestors = jnp.sum(ends <= points[:, None], axis=1)
    return ancestors[random.permutation(order_key, num - 1)]


# ---------------------------------------------------------------- conditional filters


def conditional_filter_step(
    key,
    reference,
    *,
    chain,
    num_particles=2,
    ancestors=_multinomial,
    sample_ancestors=False,
    sample_backwards=False,
    planted="",
):
    """One step of a guided conditional particle filter on paths; the slot 0 is the reference.

    The new path is traced back through its ancestors, or drawn backwards by the weights of
    each population times the density of the transition to what is drawn already.
    """
    start_key, loop_key, backward_key = random.split(key, 3)
    log_transition = log_table(chain.log_transition)
    log_proposal = log_table(chain.log_proposal)
    log_potential = log_table(chain.log_potential)

    first = random.categorical(start_key, log_table(chain.log_initial), num_particles - 1)
    states = [jnp.concatenate([reference[:1], first])]
    log_weights = [log_potential[0, states[0]]]
    parents = [jnp.arange(num_particles)]
    for t, round_key in enumerate(random.split(loop_key, chain.num_steps - 1), start=1):
        resample_key, move_key, ancestor_key, mistake_key = random.split(round_key, 4)
        before, log_w = states[-1], log_weights[-1]
        ancestor = jnp.asarray(0)
        if sample_ancestors:
            # The mistake: the reference continues from any particle that may lead to it.
            log_w_used = 0.0 if planted == _ANCESTOR_UNWEIGHTED else log_w
            log_ancestor = log_w_used + log_transition[before, reference[t]]
            ancestor = random.categorical(ancestor_key, log_ancestor)
        others = ancestors(resample_key, log_w, planted)
        parent = jnp.concatenate([ancestor[None], others])
        moved = random.categorical(move_key, log_proposal[before[others]])
        pinned = reference[t]
        if planted == _NOT_PINNED and t == 1:
            # The mistake: at one time the reference is proposed like any other particle.
            pinned = random.categorical(mistake_key, log_proposal[before[ancestor]])
        here = jnp.concatenate([pinned[None], moved])
        origin = before[parent]
        if planted == RESAMPLED_PARENT:
            # The mistake: the reference is weighed by a transition that it did not make.
            origin = origin.at[0].set(before[random.categorical(mistake_key, log_w)])
        correction = log_transition[origin, here] - log_proposal[origin, here]
        states.append(here)
        log_weights.append(log_potential[t, here] + correction)
        parents.append(parent)

    last_key, *backward_keys = random.split(backward_key, chain.num_steps)
    index = random.categorical(last_key, log_weights[-1])
    path = [states[-1][index]]
    for t, backward_key in zip(
        reversed(range(chain.num_steps - 1)), backward_keys, strict=True
    ):
        index = parents[t + 1][index]
        if sample_backwards:
            # The mistake: an index among the particles one step later.
            of = t + 1 if planted == _NEXT_POPULATION else t
            log_density = log_transition[states[of], path[0]]
            if planted == _SWAPPED_ARGUMENTS:
                # The mistake: the density of the transition from the later state.
                log_density = log_transition[path[0], states[of]]
            # The mistake: only the transition decides.
            log_filter = 0.0 if planted == _NO_FILTER_WEIGHT else log_weights[of]
            index = random.categorical(backward_key, log_filter + log_density)
        path.insert(0, states[t][index])
    return jnp.stack(path).astype(reference.dtype)


def _conditional_filter(mistake, planted, *, by=validate_exactly, **options):
    step = partial(
        conditional_filter_step, chain=_CHAIN, planted=mistake if planted else "", **options
    )
    return by(step, start=path_measure(_CHAIN))


# ---------------------------------------------------------------- fixed lags

_LAG = 1


def _lagged_filter(chain, num_particles):
    """A filter whose particles keep the last states only, the state at t in slot t mod 2."""
    slots = _LAG + 1

    def initial(key):
        state = random.categorical(key, log_table(chain.log_initial))
        return jnp.zeros(slots, jnp.int32).at[0].set(state)

    def kernel(key, t, window):
        log_rows = log_table(chain.log_proposal)
        state = random.categorical(key, log_rows[window[(t - 1) % slots]])
        return window.at[t % slots].set(state)

    model = FeynmanKac(
        initial=initial,
        log_g0=lambda window: log_table(chain.log_potential)[0, window[0]],
        kernel=kernel,
        log_g=lambda t, before, window: chain.log_increment(
            t, before[(t - 1) % slots], window[t % slots]
        ),
        num_steps=chain.num_steps,
    )
    step = resample("multinomial") >> extend(model.kernel, model.log_g)
    return spawn(model.initial, num_particles) >> weigh(model.log_g0) >> scan(step)


def _fixed_lag(planted, *, num=2, by=validate_exactly):
    paths = path_measure(_CHAIN)
    time = _CHAIN.num_steps - 1 - _LAG
    mass = np.bincount(paths.state[:, time], paths.mass)
    # The mistake: the state of the time after the one that is asked for.
    slot = (time + planted) % (_LAG + 1)
    return by(
        _lagged_filter(_CHAIN, num),
        expected=Atoms(np.arange(len(mass), dtype=np.int32), mass),
        observed=lambda windows: windows[..., slot],
    )


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        78,
        "backward weights without the filter weight",
        _FAMILY,
        exact_and_sampled(
            partial(_conditional_filter, _NO_FILTER_WEIGHT, sample_backwards=True)
        ),
        ("exact", "sampled"),
    ),
    Mutant(
        79,
        "backward weights with the arguments of the transition density swapped",
        _FAMILY,
        exact_and_sampled(
            partial(_conditional_filter, _SWAPPED_ARGUMENTS, sample_backwards=True)
        ),
        ("exact", "sampled"),
    ),
    Mutant(
        80,
        "reference trajectory not pinned at one time",
        _FAMILY,
        exact_and_sampled(partial(_conditional_filter, _NOT_PINNED)),
        ("exact", "sampled"),
    ),
    Mutant(
        81,
        "reference weighed with a resampled parent",
        _FAMILY,
        exact_and_sampled(partial(_conditional_filter, RESAMPLED_PARENT)),
        # One step moves no mean by 0.01 standard deviations: level full sees it.
        ("exact",),
    ),
    Mutant(
        82,
        "ancestor of the reference drawn without the weights",
        _FAMILY,
        exact_and_sampled(
            partial(_conditional_filter, _ANCESTOR_UNWEIGHTED, sample_ancestors=True)
        ),
        ("exact", "sampled"),
    ),
    Mutant(
        83,
        "systematic resampling with one slot overwritten by the reference",
        _FAMILY,
        exact_and_sampled(partial(_conditional_filter, _NAIVE_PIN, ancestors=_systematic)),
        ("exact", "sampled"),
    ),
    Mutant(
        84,
        "backward index taken from the next population",
        _FAMILY,
        exact_and_sampled(
            partial(_conditional_filter, _NEXT_POPULATION, sample_backwards=True)
        ),
        ("exact", "sampled"),
    ),
    Mutant(
        85,
        "fixed-lag smoother off by one",
        _FAMILY,
        exact_and_sampled(_fixed_lag, num=32),
        ("exact", "sampled"),
    ),
)
