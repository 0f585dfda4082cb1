"""Langevin steps that are never rejected: an approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, StepInfo, not_usable
from bayeskit.inference.law import CONSISTENT
from bayeskit.inference.measure import PointState

__all__ = ["UnadjustedLangevin"]


@dataclass(frozen=True)
class UnadjustedLangevin(Kernel):
    r"""Move to :math:`x' = x + \tfrac{h^2}{2} L L' \nabla \log\gamma(x) + h L \varepsilon`.

    The proposal of :class:`MALA` without acceptance. What it leaves invariant is not the
    target but close to it: on a normal target the variance is too large by the factor
    :math:`1 / (1 - h^2/4)`, and in general the bias falls as :math:`h^2`. It therefore states
    law L10 and not L3, and so does everything that is made of it.

    Notes
    -----
    One gradient a step. Nothing tells when h is too large, and nothing adapts it: the
    acceptance is 1 by definition. :func:`bayeskit.validate` measures the bias. A step to where
    the density is zero, NaN or +inf is not made. Prefer :class:`MALA`, which costs the same.

    References
    ----------
    Roberts & Tweedie (1996), *Exponential convergence of Langevin distributions*; Welling & Teh
    (2011) for gradients from a part of the data.

    Examples
    --------
    What is never rejected is exact for small steps alone, and says so:

    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * x[0] ** 2)
    >>> for kernel in (bi.MALA(), bi.UnadjustedLangevin()):
    ...     print(kernel.name, "-", bi.transition(kernel, target).law.kind)
    MALA - L3r reversible
    unadjusted Langevin - L10 consistent
    """

    name: ClassVar[str] = "unadjusted Langevin"
    reversible: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    # Nothing is rejected, so that nothing is adapted by it.
    target_acceptance: ClassVar[float] = 1.0

    @property
    def law_kind(self):
        """Consistent: exact in the limit of small steps alone."""
        return CONSISTENT

    def default_step_size(self, dim):
        """Return 0.2: the variance of a normal target is then 1 percent too large."""
        return 0.2

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        x, h = state.position, tuning.step_size
        noise = random.normal(key, x.shape, x.dtype)
        drift = 0.5 * h * tuning.scale_transposed(state.gradient)
        position = x + h * tuning.scale(drift + noise)
        moved = PointState(position, *density.components_and_gradient(position))
        not_finite = not_usable(moved.components)
        possible = (density.combine(moved.components) > -jnp.inf) & ~not_finite
        state = jax.tree.map(lambda new, old: jnp.where(possible, new, old), moved, state)
        never = jnp.asarray(False)
        return state, StepInfo(possible.astype(x.dtype), possible, not_finite, never)
