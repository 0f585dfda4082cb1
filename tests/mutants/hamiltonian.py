"""Hamiltonian Monte Carlo with fixed and with doubling trajectories."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import GHMC, HMC, random
from bayeskit.inference.kernels.base import StepInfo, metropolis, not_usable
from bayeskit.inference.measure import PointState
from bayeskit.validation import Atoms, Level, battery, validate
from tests.mutants.mutant import Mutant
from tests.mutants.sampled import exact_and_sampled, validate_exactly

FAMILY = "Hamiltonian Monte Carlo"
# Few replicates: what most of these mistakes change is large.
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)
# These shift so little that it takes more to see them.
_SMALL = ("adapts for ever", "forgets rejected weight", "unfair direction")

# A ring of states: the exact flow of a pendulum that knows nine places. What a leapfrog does to
# the energy is told by masses of no symmetry.
_MASS = np.array([0.30, 0.07, 0.11, 0.19, 0.05, 0.23, 0.02, 0.13, 0.17])
_RING = len(_MASS)
_ANGLE = 2.0 * np.pi * np.arange(_RING) / _RING


def _log_mass(place):
    return jnp.log(jnp.asarray(_MASS))[place % _RING]


# ---------------------------------------------------------------- trajectories of fixed length


@dataclass(frozen=True)
class Trajectory(HMC):
    """HMC with a diagonal mass matrix M, the inverse of the variances."""

    bug: str = ""

    def step(self, key, state, density, tuning):
        first_key, second_key = random.split(key)
        first, info = self._step(first_key, state, density, tuning)
        # Dual averaging that never ends: the next step depends on what the last one did.
        factor = jnp.where(info.accepted, 1.5, 0.5) if self.bug == "adapts for ever" else 1.0
        tuning = tuning._replace(step_size=factor * tuning.step_size)
        return self._step(second_key, first, density, tuning)

    def _step(self, key, state, density, tuning):
        momentum_key, accept_key = random.split(key)
        x, h, num = state.position, 0.7 * tuning.step_size, 2
        factor = tuning.factor if tuning.factor.ndim == 2 else jnp.diag(tuning.factor)
        deviation = jnp.sqrt(jnp.sum(factor**2, axis=1))
        noise = random.normal(momentum_key, x.shape, x.dtype)
        # M is the inverse of the variances, and the momentum has variance M.
        inverse = self.bug == "momentum of variance 1/M"
        start = noise * deviation if inverse else noise / deviation
        last = jnp.asarray(num)
        if self.bug == "length by position":  # and the way back may have another length
            last = jnp.where(x[0] > 0.5, 1, 2)

        def energy(components, momentum):
            return 0.5 * jnp.sum((deviation * momentum) ** 2) - density.combine(components)

        def leapfrog(i, now):
            position, momentum, components, gradient, _, _ = now
            before = energy(components, momentum)
            half = momentum + 0.5 * h * gradient
            position = position + h * deviation**2 * half
            components, gradient = density.components_and_gradient(position)
            full = half + 0.5 * h * gradient
            return position, full, components, gradient, half, before

        now = (x, start, state.components, state.gradient, start, jnp.zeros((), x.dtype))
        for i in range(num):
            moved = leapfrog(i, now)
            now = jax.tree.map(lambda a, b, i=i: jnp.where(i < last, a, b), moved, now)
        position, end, components, gradient, half, before_last = now
        if self.bug == "no half step at the end":
            end = half
        begin = energy(state.components, start)
        if self.bug == "energy of the step before":
            begin = before_last
        log_ratio = begin - energy(components, end)
        proposal = PointState(position, components, gradient)
        return metropolis(accept_key, state, proposal, log_ratio, not_usable(components))


def ring_step(key, state, *, bug):
    """HMC on the ring, of a state (place, number of steps); the momentum is a direction."""
    place, num = state
    direction_key, accept_key = random.split(key)
    forward = random.accept(direction_key, jnp.log(0.5))
    move = jnp.where(forward, 1, -1)
    if bug == "length by position":  # and the way back may have another length
        num = jnp.where(place < 4, 1, 2)
    there = (place + num * move) % _RING
    begin = _log_mass(place)
    if bug == "energy of the step before":
        begin = _log_mass(there - move)
    accepted = random.accept(accept_key, _log_mass(there) - begin)
    if bug == "adapts for ever":
        num = jnp.where(accepted, 3, 1)
    return jnp.where(accepted, there, place), num


def generalised_ring_step(key, state, *, bug):
    """HMC on the ring that keeps most of its momentum, of a state (place, direction)."""
    place, direction = state
    refresh_key, accept_key = random.split(key)
    direction = jnp.where(random.accept(refresh_key, jnp.log(0.2)), -direction, direction)
    there = (place + direction) % _RING
    accepted = random.accept(accept_key, _log_mass(there) - _log_mass(place))
    # The flow and a flip are an involution: who is rejected must turn round.
    turned = direction if bug == "no flip on rejection" else -direction
    return jnp.where(accepted, there, place), jnp.where(accepted, direction, turned)


class KeepsDirection(GHMC):
    """Does not flip the momentum of a rejected step."""

    def _turned(self, state):
        return state


# ---------------------------------------------------------------- trajectories that double


class Tree(NamedTuple):
    """A piece of an orbit, and the point that was chosen from it."""

    left: Any
    right: Any
    sample: Any
    log_weight: jax.Array
    is_open: jax.Array  # neither it nor a part of it turns back


class Orbit(NamedTuple):
    """What a doubling trajectory needs to know about the flow."""

    follow: Callable  # (point, forward) -> the next point
    log_weight: Callable  # point -> minus the energy
    turns: Callable  # (left, right) -> whether these ends turn back
    depth: int
    bug: str


def _choose(condition, one, other):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def _joined(key, orbit, tree, more, forward, *, biased):
    """Join the next piece of an orbit to the one before it, and choose between their points."""
    log_total = jnp.logaddexp(tree.log_weight, more.log_weight)
    # Biased: likelier to leave the old piece than their weights say.
    log_ratio = more.log_weight - (tree.log_weight if biased else log_total)
    taken = random.accept(key, log_ratio)
    left = _choose(forward, tree.left, more.left)
    right = _choose(forward, more.right, tree.right)
    if orbit.bug == "forgets rejected weight":  # a piece counts even if its point was not taken
        log_total = jnp.where(taken, log_total, tree.log_weight)
    is_open = tree.is_open & more.is_open & ~orbit.turns(left, right)
    sample = _choose(taken, more.sample, tree.sample)
    return Tree(left, right, sample, log_total, is_open)


def _subtree(key, orbit, end, forward, depth):
    """Return the 2^depth points that follow the end of an orbit."""
    if depth == 0:
        point = orbit.follow(end, forward)
        weight = orbit.log_weight(point)
        return Tree(point, point, point, weight, jnp.isfinite(weight))
    first_key, second_key, choice_key = random.split(key, 3)
    first = _subtree(first_key, orbit, end, forward, depth - 1)
    middle = _choose(forward, first.right, first.left)
    second = _subtree(second_key, orbit, middle, forward, depth - 1)
    # Only at the top may the choice be biased towards what is new.
    biased = orbit.bug == "biased inside"
    joined = _joined(choice_key, orbit, first, second, forward, biased=biased)
    if orbit.bug == "checks the top alone":
        # What is not finite closes the orbit all the same.
        joined = joined._replace(is_open=first.is_open & second.is_open)
    return joined


def doubling_step(key, start, orbit):
    """Return a point of the orbit through ``start``, which doubles until it turns back."""
    weight = orbit.log_weight(start)
    if orbit.bug == "start counted twice":
        weight = weight + jnp.log(2.0)
    tree = Tree(start, start, start, weight, jnp.asarray(True))
    # The sign of the momentum is fair, and hides all but a gross mistake from the statistics.
    fair = 0.9 if orbit.bug == "unfair direction" else 0.5
    for depth, round_key in enumerate(random.split(key, orbit.depth)):
        direction_key, tree_key, choice_key = random.split(round_key, 3)
        forward = random.accept(direction_key, jnp.log(fair))
        end = _choose(forward, tree.right, tree.left)
        more = _subtree(tree_key, orbit, end, forward, depth)
        longer = _joined(choice_key, orbit, tree, more, forward, biased=True)
        goes_on = tree.is_open & more.is_open
        tree = _choose(goes_on, longer, tree._replace(is_open=jnp.asarray(False)))
    return tree.sample


def doubling_ring_step(key, place, *, bug):
    """Doubling on the ring, whose places are points of a circle in phase space."""
    position, momentum = jnp.asarray(np.cos(_ANGLE)), jnp.asarray(-np.sin(_ANGLE))

    def turns(left, right):
        across = position[right] - position[left]
        return (across * momentum[left] < 0) | (across * momentum[right] < 0)

    def follow(point, forward):
        return (point + jnp.where(forward, 1, -1)) % _RING

    return doubling_step(key, place, Orbit(follow, _log_mass, turns, 3, bug))


@dataclass(frozen=True)
class Doubling(HMC):
    """A no-U-turn sampler with at most seven leapfrog steps."""

    bug: str = ""
    depth: int = 3

    def step(self, key, state, density, tuning):
        momentum_key, tree_key = random.split(key)
        noise = random.normal(momentum_key, state.position.shape, state.position.dtype)
        h = 0.6 * tuning.step_size

        def follow(point, forward):
            now, momentum = point
            time = jnp.where(forward, h, -h)
            half = momentum + 0.5 * time * tuning.scale_transposed(now.gradient)
            position = now.position + time * tuning.scale(half)
            there = PointState(position, *density.components_and_gradient(position))
            return there, half + 0.5 * time * tuning.scale_transposed(there.gradient)

        def log_weight(point):
            now, momentum = point
            return density.combine(now.components) - 0.5 * jnp.sum(momentum**2)

        def turns(left, right):
            across = tuning.whiten(right[0].position) - tuning.whiten(left[0].position)
            return (across @ left[1] < 0) | (across @ right[1] < 0)

        orbit = Orbit(follow, log_weight, turns, self.depth, self.bug)
        end, _ = doubling_step(tree_key, (state, noise), orbit)
        moved, never = jnp.any(end.position != state.position), jnp.asarray(False)
        return end, StepInfo(jnp.ones(()), moved, never, never)


# ---------------------------------------------------------------- checks


def _finite(step, start, observed, bug, planted, num_steps=1, *, by=validate_exactly):
    step = functools.partial(step, bug=bug if planted else "")

    def steps(key, state):
        for one_key in random.split(key, num_steps):
            state = step(one_key, state)
        return state

    return by(steps, start=start, observed=observed)


def _place(state):
    return state[0]


def _everything(state):
    return state


_PLACES = np.arange(_RING)
_ON_RING = Atoms(_PLACES, _MASS)
_WITH_LENGTH = Atoms((_PLACES, np.full(_RING, 2)), _MASS)
_WITH_DIRECTION = Atoms(
    (np.tile(_PLACES, 2), np.repeat([1, -1], _RING)), 0.5 * np.tile(_MASS, 2)
)


def _exact_start(double, bug, planted):
    kernel = double(bug=bug if planted else "")
    level = "quick" if bug in _SMALL else LEVEL
    return validate(kernel, battery()["skewed"], level=level, key=5)


def _quadrature(double, bug, planted):
    kernel = double(bug=bug if planted else "")
    return validate(kernel, battery()["skewed_1d"], level="quadrature")


def _joint(planted):
    """Check generalised HMC on the target times the law of its momentum."""
    kernel = (KeepsDirection if planted else GHMC)()
    target = battery()["skewed_1d"].target
    tuning = kernel.default_tuning(1)._replace(step_size=jnp.array(1.2))

    def start(key):
        position_key, momentum_key = random.split(key)
        state = kernel.init(target.sample_exact(position_key), target.density())
        momentum = random.normal(momentum_key, state.position.shape, state.position.dtype)
        return state._replace(momentum=momentum, has_momentum=jnp.asarray(True))

    def step(key, state):
        return kernel.step(key, state, target.density(), tuning)[0]

    def observed(state):
        return state.position, state.momentum

    return validate(step, start=start, observed=observed, law="invariant", level=LEVEL, key=5)


def _fixed(number, name, bug, *, finite=True, num_steps=1):
    checks = {
        **exact_and_sampled(
            functools.partial(
                _finite, ring_step, _WITH_LENGTH, _place, bug, num_steps=num_steps
            )
        ),
        "quadrature": functools.partial(_quadrature, Trajectory, bug),
        "exact start": functools.partial(_exact_start, Trajectory, bug),
    }
    if not finite:
        del checks["exact"], checks["sampled"]
    return Mutant(number, name, FAMILY, checks, tuple(checks))


def _doubling(number, name, bug, *, blind=()):
    checks = {
        **exact_and_sampled(
            functools.partial(_finite, doubling_ring_step, _ON_RING, _everything, bug)
        ),
        "exact start": functools.partial(_exact_start, Doubling, bug),
    }
    return Mutant(number, name, FAMILY, checks, tuple(c for c in checks if c not in blind))


MUTANTS = (
    _fixed(22, "no half step at the end", "no half step at the end", finite=False),
    _fixed(
        23,
        "momentum drawn with variance 1/M instead of M",
        "momentum of variance 1/M",
        finite=False,
    ),
    Mutant(
        24,
        "generalised HMC does not flip the momentum on rejection",
        FAMILY,
        {
            **exact_and_sampled(
                functools.partial(
                    _finite,
                    generalised_ring_step,
                    _WITH_DIRECTION,
                    _everything,
                    "no flip on rejection",
                )
            ),
            "joint": _joint,
        },
        ("exact", "sampled", "joint"),
    ),
    _fixed(
        25,
        "energy compared with the step before, not with the start",
        "energy of the step before",
    ),
    _doubling(
        26, "weight of a sub-tree not added if its point is refused", "forgets rejected weight"
    ),
    _doubling(27, "initial point counted twice", "start counted twice"),
    _doubling(28, "direction bit not fair", "unfair direction"),
    _doubling(29, "U-turns looked for at the top level alone", "checks the top alone"),
    _doubling(30, "choice biased inside of sub-trees", "biased inside"),
    _fixed(31, "step size adapted during the kept draws", "adapts for ever", num_steps=3),
    _fixed(32, "number of leapfrog steps chosen by the current position", "length by position"),
)
