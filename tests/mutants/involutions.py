"""Involutions, jumps between models, and proposals on a finite space."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from bayeskit.inference import RandomWalk, random
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.maps import Involution
from bayeskit.inference.measure import PointState
from bayeskit.validation import Atoms, Level, battery, validate
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

FAMILY = "Metropolis-Hastings"
# Few replicates: what these mistakes change is large.
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)
# Three coordinates whose means are not zero: scaling x by v has the Jacobian v^3 / v^2.
NORMAL = battery()["correlated_normal"].target


# ---------------------------------------------------------------- maps of x and an auxiliary v


def scaling(z):
    """Multiply x by v, and note how to come back."""
    x, v = z
    return v * x, 1.0 / v


def scaling_log_det(z, *, planted):
    x, v = z
    log_det = (len(x) - 2) * jnp.log(v)
    return 0.0 * log_det if planted else log_det


def draw_factor(key, x):
    return jnp.exp(0.3 * random.normal(key, (), x.dtype))


def log_normal(v):
    """The log density of the factor, as far as it depends on it."""
    return -0.5 * (jnp.log(v) / 0.3) ** 2 - jnp.log(v)


_SHIFT, _SCALE = np.array([1.0, -2.0, 3.0]), np.array([0.4, 1.3, 5.0])


def exchange(z, *, planted):
    """Exchange x and v through a transport: x' = T(v) and v' = T^-1(x)."""
    x, v = z
    standardised = (x - _SHIFT) / _SCALE
    if planted:  # undone in the order in which it was done
        standardised = x / _SCALE - _SHIFT
    return _SHIFT + _SCALE * v, standardised


def draw_noise(key, x):
    return random.normal(key, x.shape, x.dtype)


def log_standard_normal(v):
    return -0.5 * jnp.sum(v**2)


@dataclass(frozen=True)
class Involutive(RandomWalk):
    """Draw v, map (x, v) by an involution, accept by the ratio of densities and volumes."""

    planted: bool = False
    number: int = 18

    def step(self, key, state, density, tuning):
        auxiliary_key, accept_key = random.split(key)
        x = state.position
        if self.number == 18:
            v = draw_factor(auxiliary_key, x)
            position, back = scaling((x, v))
            log_ratio = scaling_log_det((x, v), planted=self.planted)
            log_ratio += log_normal(back) - log_normal(v)
        else:
            v = draw_noise(auxiliary_key, x)
            position, back = exchange((x, v), planted=self.planted)
            log_ratio = log_standard_normal(back) - log_standard_normal(v)
        proposal = PointState(position, density.components(position))
        log_ratio += density.combine(proposal.components) - density.combine(state.components)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )


def _draw_pair(key, draw_auxiliary):
    first, second = random.split(key)
    x = NORMAL.sample_exact(first)
    return x, draw_auxiliary(second, x)


def scaling_pointwise(planted):
    involution = Involution(
        scaling,
        functools.partial(scaling_log_det, planted=planted),
        lambda z: NORMAL.density()(z[0]) + log_normal(z[1]),
    )
    return validate(involution, start=lambda key: _draw_pair(key, draw_factor))


def exchange_pointwise(planted):
    involution = Involution(
        functools.partial(exchange, planted=planted),
        log_density=lambda z: NORMAL.density()(z[0]) + log_standard_normal(z[1]),
    )
    return validate(involution, start=lambda key: _draw_pair(key, draw_noise))


def involutive_exact_start(number, planted):
    kernel = Involutive(planted=planted, number=number)
    return validate(kernel, models="correlated_normal", level=LEVEL)


_RING = np.array([0.34, 0.85, 0.51, 0.2, 0.6])
_UP = np.array([0.7, 0.4, 0.25, 0.6, 0.5])


def ring_step(key, here, *, planted):
    """Draw a direction s, and map (x, s) to (x + s, -s)."""
    direction_key, accept_key = random.split(key)
    up, log_mass = jnp.asarray(_UP), jnp.asarray(np.log(_RING))
    is_up = random.accept(direction_key, jnp.log(up[here]))
    there = (here + jnp.where(is_up, 1, -1)) % len(_RING)

    def log_direction(place, is_up):
        return jnp.log(jnp.where(is_up, up[place], 1.0 - up[place]))

    back = is_up if planted else ~is_up  # (x, s) to (x + s, s) is no involution
    log_ratio = log_mass[there] - log_mass[here]
    log_ratio += log_direction(there, back) - log_direction(here, is_up)
    return jnp.where(random.accept(accept_key, log_ratio), there, here)


def ring_check(planted, *, by=validate_exactly):
    step = functools.partial(ring_step, planted=planted)
    return by(step, start=Atoms(np.arange(len(_RING)), _RING), law="reversible")


# ---------------------------------------------------------------- jumps between models

# Models with 0, 1 or 2 parameters of two values each; a state is (k, theta_1, theta_2), where
# what is not in use is 0.
_STATES = np.array(
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1)], np.int32
)
_MODEL_MASS = np.array([0.3, 0.25, 0.4, 0.1, 0.35, 0.2, 0.15])
_NEW_PARAMETER = np.array([0.3, 0.7])
# No death at k = 0, no birth at k = 2.
_BIRTH = np.array([1.0, 0.4, 0.0])


def _place(state):
    return jnp.argmax(jnp.all(jnp.asarray(_STATES) == state, axis=1))


def jump_step(key, state, *, planted):
    """Add a parameter or take away the last one."""
    kind_key, new_key, accept_key = random.split(key, 3)
    num = state[0]
    birth, log_mass = jnp.asarray(_BIRTH), jnp.asarray(np.log(_MODEL_MASS))
    log_new = jnp.asarray(np.log(_NEW_PARAMETER))
    is_birth = random.accept(kind_key, jnp.log(birth[num]))
    new = random.categorical(new_key, log_new)
    # The last parameter: the one that is born, or the one that dies.
    last = jnp.where(is_birth, num, num - 1)
    grown = state.at[0].add(1).at[1 + jnp.minimum(last, 1)].set(new)
    shrunk = state.at[0].add(-1).at[1 + jnp.maximum(last, 0)].set(0)
    there = jnp.where(is_birth, grown, shrunk)
    gone = state[1 + jnp.maximum(num - 1, 0)]

    smaller = jnp.where(is_birth, num, num - 1)
    p_birth, p_death = birth[smaller], 1.0 - birth[smaller + 1]
    if planted:  # at k = 0 a birth is certain, which the ratio forgets
        p_birth = jnp.where(smaller == 0, 1.0 - birth[1], p_birth)
    log_move = jnp.log(p_death) - jnp.log(p_birth) - log_new[jnp.where(is_birth, new, gone)]
    log_ratio = log_mass[_place(there)] - log_mass[_place(state)]
    log_ratio += jnp.where(is_birth, log_move, -log_move)
    return jnp.where(random.accept(accept_key, log_ratio), there, state)


def jump_check(planted, *, by=validate_exactly):
    step = functools.partial(jump_step, planted=planted)
    return by(step, start=Atoms(_STATES, _MODEL_MASS), law="reversible")


# ---------------------------------------------------------------- proposals on a finite space

_MASS = np.array([0.34, 0.85, 0.51, 0.2])


def uniform_step(key, here, *, bug):
    """Propose any state, all alike: symmetric, so the ratio is that of the masses."""
    proposal_key, accept_key = random.split(key)
    num = len(_MASS) + 1 if bug == "one too many" else len(_MASS)
    weights = jnp.ones(num)
    if bug == "excluded one way":
        # From the first state nobody goes to the last one, but there is a way back.
        weights = jnp.where((here == 0) & (jnp.arange(num) == num - 1), 0.0, weights)
    # Indices past the end are clipped by gathers, so that nothing fails: the last state is
    # proposed twice as often as the others are, and from them alone.
    there = jnp.minimum(random.categorical(proposal_key, jnp.log(weights)), len(_MASS) - 1)
    log_mass = jnp.asarray(np.log(_MASS))
    log_ratio = log_mass[there] - log_mass[here]
    return jnp.where(random.accept(accept_key, log_ratio), there, here)


def uniform_check(bug, planted, *, by=validate_exactly):
    step = functools.partial(uniform_step, bug=bug if planted else "")
    return by(step, start=Atoms(np.arange(len(_MASS)), _MASS), law="reversible")


# ---------------------------------------------------------------- the list

MUTANTS = (
    Mutant(
        18,
        "Jacobian of a scaling move omitted",
        FAMILY,
        {
            "pointwise": scaling_pointwise,
            "exact start": functools.partial(involutive_exact_start, 18),
        },
        ("pointwise", "exact start"),
    ),
    Mutant(
        19,
        "map of a move that is no involution",
        FAMILY,
        {
            "pointwise": exchange_pointwise,
            **exact_and_sampled(ring_check),
            "exact start": functools.partial(involutive_exact_start, 19),
        },
        ("pointwise", "exact", "sampled", "exact start"),
    ),
    Mutant(
        20,
        "birth and death probabilities missing in the ratio at k = 0",
        FAMILY,
        exact_and_sampled(jump_check),
        ("exact", "sampled"),
    ),
    Mutant(
        21,
        "discrete proposal draws one state too many",
        FAMILY,
        exact_and_sampled(functools.partial(uniform_check, "one too many")),
        ("exact", "sampled"),
    ),
    Mutant(
        21,
        "discrete proposal excludes a state one way only",
        FAMILY,
        exact_and_sampled(functools.partial(uniform_check, "excluded one way")),
        ("exact", "sampled"),
    ),
)
