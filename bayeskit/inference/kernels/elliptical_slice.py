"""Elliptical slice sampling for normal priors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import StepInfo, not_usable
from bayeskit.inference.kernels.normal_prior import (
    NormalPrior,
    NormalPriorKernel,
)
from bayeskit.inference.kernels.slice import SlicePoint, shrink
from bayeskit.inference.measure import PointState

__all__ = ["EllipticalSlice"]


@dataclass(frozen=True)
class EllipticalSlice(NormalPriorKernel):
    r"""Move on an ellipse through the current point and a draw from the normal prior.

    With :math:`\nu \sim N(0, \Sigma)` the points :math:`m + (x - m) \cos\theta + \nu
    \sin\theta` follow the prior for every angle. An angle is drawn from the whole circle, cut
    open at a random place, until the likelihood exceeds a random height; the bracket shrinks
    towards the angle 0 of the current point. The log height is :math:`c\,\ell(x) - E`, with a
    standard exponential E, the log likelihood :math:`\ell` and its inverse temperature c: the
    ellipse accounts for the prior already. There is no acceptance ratio.

    Parameters
    ----------
    prior : NormalPrior
        The very prior that ``log_prior`` of the target is the density of.
    max_rounds : int
        Most angles that are drawn; then x stays.

    Raises
    ------
    TypeError
        For a target without prior and likelihood of its own, or of another dimension.

    Notes
    -----
    No step size and no tuning. A few likelihood evaluations a step while the likelihood is
    weak, more where it is informative; each step is then short. A prior other than the
    target's gives wrong answers without a warning: :func:`bayeskit.validate` finds it.

    References
    ----------
    Murray, Adams & MacKay (2010), *Elliptical slice sampling*.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.inference import EllipticalSlice, NormalPrior
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum(x**2),
    ...     log_likelihood=lambda x: -jnp.sum(jnp.abs(x - 1)),
    ... )
    >>> kernel = EllipticalSlice(NormalPrior([0.0, 0.0], scale=[1.0, 1.0]))
    >>> state = kernel.init(jnp.zeros(2), target.density())
    >>> state, _ = kernel.step(jax.random.key(0), state, target.density(), None)
    >>> state.position.shape
    (2,)
    """

    prior: NormalPrior
    max_rounds: int = 32

    name: ClassVar[str] = "elliptical slice"
    # Every step moves: there is nothing to adapt.
    target_acceptance: ClassVar[float] = 1.0

    def __post_init__(self):
        if self.max_rounds < 1:
            raise ValueError(f"max_rounds must be at least 1, got {self.max_rounds!r}")

    def default_step_size(self, dim):
        """Return 1: there is nothing to tune."""
        return 1.0

    def step(self, key, state, density, tuning):
        """Return the next state and its info; the tuning is not looked at."""
        noise_key, height_key, place_key, shrink_key = random.split(key, 4)
        x = state.position
        relative = self.relative(density)
        mean = jnp.asarray(self.prior.mean, x.dtype)
        other = self.prior.scaled(random.normal(noise_key, x.shape, x.dtype))
        u = random.uniform(height_key, (), x.dtype)
        log_height = relative.combine(state.components) + jnp.log1p(-u)

        def position(angle):
            return mean + jnp.cos(angle) * (x - mean) + jnp.sin(angle) * other

        def at(angle):
            components = density.components(position(angle))
            not_finite = not_usable(components)
            inside = (relative.combine(components) > log_height) & ~not_finite
            return SlicePoint(components, inside, not_finite)

        high = 2.0 * math.pi * random.uniform(place_key, (), x.dtype)
        uniforms = random.uniform(shrink_key, (self.max_rounds,), x.dtype)
        angle, point = shrink(at, state.components, high - 2.0 * math.pi, high, uniforms)
        moved = PointState(jnp.where(point.inside, position(angle), x), point.components)
        acceptance = point.inside.astype(x.dtype)
        never = jnp.asarray(False)
        return moved, StepInfo(acceptance, point.inside, point.not_finite, never)
