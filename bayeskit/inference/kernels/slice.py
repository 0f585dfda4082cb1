"""Slice sampling along lines: step out, then shrink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, StepInfo, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["Slice", "SlicePoint", "shrink"]

_DIRECTIONS = ("axes", "random")


class SlicePoint(NamedTuple):
    """A point of the bracket, and whether it lies in the slice.

    Parameters
    ----------
    components : (J,) array
        Components of the log density there.
    inside, not_finite : () bool arrays
    """

    components: jax.Array
    inside: jax.Array
    not_finite: jax.Array


def shrink(
    at: Callable[[jax.Array], SlicePoint],
    here: jax.Array,
    low: jax.Array,
    high: jax.Array,
    uniforms: jax.Array,
) -> tuple[jax.Array, SlicePoint]:
    """Draw from a bracket around 0 until a point lies in the slice.

    What is drawn in vain becomes the end of the bracket *on its side of 0*, the current point:
    then the way back has the same probability. So it has if the draws run out and the point
    stays where it is.

    Parameters
    ----------
    at : callable (place) -> SlicePoint
    here : (J,) array
        Components at place 0.
    low, high : () arrays
        Ends of the bracket, at either side of 0.
    uniforms : (rounds,) array in [0, 1)
        One for each draw. All are drawn beforehand, so that no loop holds a random key.

    Returns
    -------
    place : () array
    point : SlicePoint
    """
    never = jnp.asarray(False)
    start = (jnp.zeros((), jnp.int32), low, high, jnp.zeros_like(low), here, never, never)

    def goes_on(now):
        return (now[0] < len(uniforms)) & ~now[5]

    def draw(now):
        number, low, high, _, _, _, not_finite = now
        place = low + (high - low) * uniforms[number]
        point = at(place)
        low = jnp.where(place < 0, place, low)
        high = jnp.where(place < 0, high, place)
        not_finite = not_finite | point.not_finite
        return number + 1, low, high, place, point.components, point.inside, not_finite

    _, _, _, place, components, found, not_finite = lax.while_loop(goes_on, draw, start)
    place = jnp.where(found, place, 0.0)
    components = jnp.where(found, components, here)
    return place, SlicePoint(components, found, not_finite)


@dataclass(frozen=True)
class Slice(Kernel):
    r"""Draw from the part of a line where the density exceeds a random height.

    The log height is :math:`\log\gamma(x) - E` with a standard exponential E. On the line
    :math:`x + s\,h L e`, an interval of length 1 that holds s = 0 at a random place steps out
    by its length while its ends lie in the slice; the steps that are allowed are split at
    random between both sides. Points are then drawn from the interval, which shrinks towards
    x, until one lies in the slice. There is no acceptance ratio.

    Parameters
    ----------
    direction : {"axes", "random"}
        A sweep over all axes of the metric, in random order, or one line in a random direction
        of the whitened space.
    max_steps_out : int
        Most intervals that an interval grows to.
    max_rounds : int
        Most points that are drawn; then x stays.

    Raises
    ------
    ValueError
        For an unknown direction or counts below 1.

    Notes
    -----
    On a normal density 4.4 evaluations a line, and a sweep has as many lines as there are
    dimensions. Nothing is to be tuned but the metric. A width ten times too large costs 6.2
    evaluations and no mixing; one ten times too small mixes worse, since the steps out are
    limited. Of many particles all wait for the one with the longest search. Coordinates that
    the metric leaves correlated mix slowly.

    References
    ----------
    Neal (2003), *Slice sampling*, figures 3 and 5.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import Slice
    >>> density = Target(log_density=lambda x: -jnp.sum(jnp.abs(x))).density()
    >>> kernel = Slice()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> bool(info.accepted)
    True
    """

    direction: str = "axes"
    max_steps_out: int = 8
    max_rounds: int = 32

    name: ClassVar[str] = "slice"
    # Every step moves, so that adaptation leaves the width alone.
    target_acceptance: ClassVar[float] = 1.0

    def __post_init__(self):
        if self.direction not in _DIRECTIONS:
            raise ValueError(f"direction must be one of {_DIRECTIONS}, got {self.direction!r}")
        for name in ("max_steps_out", "max_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")

    def default_step_size(self, dim):
        """Return 3: a slice of a normal density is 2.5 standard deviations wide on average."""
        return 3.0

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        direction_key, lines_key = random.split(key)
        directions = tuning.step_size * self._directions(direction_key, tuning)
        directions = directions.astype(state.position.dtype)

        def one_line(line_key, now, direction):
            return self._along(line_key, now, density, direction)

        state, infos = random.scan(one_line, lines_key, state, directions)
        return state, StepInfo(
            jnp.mean(infos.acceptance),
            jnp.any(infos.accepted),
            jnp.any(infos.not_finite),
            jnp.any(infos.divergent),
        )

    def _directions(self, key: Any, tuning: Any) -> jax.Array:
        """Return the directions (lines, dim) of one step."""
        dim = tuning.factor.shape[0]
        if self.direction == "random":
            z = random.normal(key, (dim,), tuning.factor.dtype)
            return tuning.scale(z / jnp.linalg.norm(z))[None]
        # A random order makes the sweep reversible: it is as likely as the order backwards.
        axes = jnp.diag(tuning.factor) if tuning.factor.ndim == 1 else tuning.factor.T
        return axes[random.permutation(key, dim)]

    def _along(self, key, state, density, direction):
        """Return the next state on a line, and its info."""
        height_key, place_key, split_key, shrink_key = random.split(key, 4)
        x = state.position
        log_height = self._log_height(height_key, density.combine(state.components))

        def at(shift):
            components = density.components(x + shift * direction)
            not_finite = not_usable(components)
            inside = (density.combine(components) > log_height) & ~not_finite
            return SlicePoint(components, inside, not_finite)

        low = -random.uniform(place_key, (), x.dtype)
        to_the_left = self._steps_to_the_left(split_key)
        to_the_right = self.max_steps_out - 1 - to_the_left
        uniforms = random.uniform(shrink_key, (self.max_rounds,), x.dtype)
        bracket = (
            _step_out(at, low, -1.0, to_the_left),
            _step_out(at, low + 1.0, 1.0, to_the_right),
        )
        shift, point = shrink(at, state.components, *bracket, uniforms)
        moved = PointState(x + shift * direction, point.components)
        acceptance = point.inside.astype(x.dtype)
        never = jnp.asarray(False)
        return moved, StepInfo(acceptance, point.inside, point.not_finite, never)

    def _log_height(self, key: Any, log_density: jax.Array) -> jax.Array:
        """Return the log of a uniform height below the density."""
        u = random.uniform(key, (), log_density.dtype)
        return log_density + jnp.log1p(-u)

    def _steps_to_the_left(self, key: Any) -> jax.Array:
        """Return how many of the steps that are allowed go to the left."""
        return random.categorical(key, jnp.zeros(self.max_steps_out))


def _step_out(at, edge, step, most):
    """Move the end of an interval outwards while it lies in the slice, at most so often."""

    def goes_on(now):
        return now[2]

    def move(now):
        edge, number, _ = now
        edge, number = edge + step, number + 1
        return edge, number, (number < most) & at(edge).inside

    number = jnp.zeros((), jnp.int32)
    return lax.while_loop(goes_on, move, (edge, number, (most > 0) & at(edge).inside))[0]
