"""Independent Metropolis-Hastings with the prior as the proposal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayeskit.errors import ImproperPriorError
from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, metropolis, not_usable
from bayeskit.inference.measure import PointState

__all__ = ["PriorProposal"]


@dataclass(frozen=True)
class PriorProposal(Kernel):
    r"""Propose a fresh draw from the prior, whatever the current position.

    With :math:`x' \sim p` and a density :math:`\gamma = p^{c_0} L^{c_1}`, the log acceptance
    ratio is

    .. math:: (c_0 - 1)\,[\log p(x') - \log p(x)] + c_1\,[\log L(x') - \log L(x)],

    on a tempered path the difference of the tempered log-likelihoods. The prior of a
    :func:`~bayeskit.inference.geometric_bridge` or
    :func:`~bayeskit.inference.defensive_bridge` is its reference: there the kernel proposes
    from an approximation of the posterior, and L is what that leaves out.

    Raises
    ------
    ImproperPriorError
        For a target without ``log_prior`` and ``sample_prior``.

    Notes
    -----
    One density evaluation a step, no step size. Good where the prior, or the reference of a
    bridge, is close to the target: the chance to accept is at least
    :math:`Z / \max_x L(x)` (Mengersen & Tweedie 1996). Hopeless where it is far away.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum(x**2),
    ...     log_likelihood=lambda x: -0.5 * jnp.sum((x - 1.0) ** 2),
    ...     sample_prior=lambda key: bi.random.normal(key, (2,)),
    ... )
    >>> density, kernel = target.density(), bi.PriorProposal()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.position.shape
    (2,)
    """

    name: ClassVar[str] = "independent Metropolis-Hastings from the prior"
    target_acceptance: ClassVar[float] = float("nan")

    def default_step_size(self, dim):
        """Return 1: there is no step size."""
        return 1.0

    def init(self, position, density):
        """Return the state at a position, for a target with a prior to draw from."""
        target = density.target
        if not target.has_prior or target.sample_prior is None:
            raise ImproperPriorError(
                f"{self.name} needs a target with log_prior, log_likelihood and sample_prior, "
                f"and {target.name} is given as a log_density alone or without a sampler"
            )
        return super().init(position, density)

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        draw_key, accept_key = random.split(key)
        position = density.target.draw_prior(draw_key).astype(state.position.dtype)
        proposal = PointState(position, density.components(position))
        coefficients = density.coefficients
        beyond = density._replace(coefficients=coefficients.at[0].add(-1.0))
        log_ratio = beyond.combine(proposal.components) - beyond.combine(state.components)
        return metropolis(
            accept_key, state, proposal, log_ratio, not_usable(proposal.components)
        )
