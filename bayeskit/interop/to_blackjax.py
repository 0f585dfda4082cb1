"""Kernels of this package as samplers of the form that BlackJAX uses.

Nothing here imports BlackJAX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit.inference.kernels.base import Kernel, Tuning
from bayeskit.inference.measure import Density, Target

__all__ = ["HostedInfo", "HostedKernel", "HostedState", "SamplingPair", "to_blackjax"]


def to_blackjax(kernel: Kernel) -> HostedKernel:
    """Return a kernel of this package as an algorithm for BlackJAX's loops and adaptations.

    Parameters
    ----------
    kernel : Kernel

    Returns
    -------
    HostedKernel
        ``algorithm(log_density, step_size, inverse_mass_matrix)`` is a pair ``(init, step)``,
        as ``blackjax.hmc(...)`` is. ``algorithm.init`` and ``algorithm.build_kernel()`` are
        what ``blackjax.window_adaptation`` and ``blackjax.adaptive_tempered_smc`` take.

    Raises
    ------
    TypeError
        For what is no kernel.

    Notes
    -----
    Positions may be pytrees of floating-point arrays. The inverse mass matrix is what BlackJAX
    calls so, the covariance of the positions, or their variances. Without a step size the
    kernel takes the one that its own tuning starts from.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit.inference import HMC
    >>> from bayeskit.interop.blackjax import to_blackjax
    >>> algorithm = to_blackjax(HMC())
    >>> log_density = lambda x: -0.5 * jnp.sum(x["a"] ** 2)
    >>> init, step = algorithm(log_density, step_size=0.5)
    >>> state = init({"a": jnp.ones(3)})
    >>> state, info = jax.jit(step)(jax.random.key(0), state)
    >>> state.position["a"].shape, bool(info.is_divergent)
    ((3,), False)
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"to_blackjax takes a kernel such as HMC() or RandomWalk(), got "
            f"{type(kernel).__name__}; engines such as NUTS() run on their own"
        )
    return HostedKernel(kernel)


class SamplingPair(NamedTuple):
    """A sampler for one density: ``init(position)`` and ``step(key, state)``."""

    init: Callable
    step: Callable


class HostedState(NamedTuple):
    """The state of a kernel, with the names that BlackJAX's code reads.

    Parameters
    ----------
    position : pytree of arrays
    logdensity : () array
    logdensity_grad : pytree of arrays or None
        As the position; of kernels that follow it.
    kernel : pytree
        State of the kernel itself.
    """

    position: Any
    logdensity: jax.Array
    logdensity_grad: Any
    kernel: Any


class HostedInfo(NamedTuple):
    """What a step says about itself, with the names that BlackJAX's code reads."""

    acceptance_rate: jax.Array
    is_accepted: jax.Array
    is_divergent: jax.Array
    not_finite: jax.Array


@dataclass(frozen=True)
class HostedKernel:
    """A kernel as an algorithm of BlackJAX. See :func:`to_blackjax`."""

    kernel: Kernel

    def __call__(
        self, log_density: Callable, step_size: Any = None, inverse_mass_matrix: Any = None
    ) -> SamplingPair:
        """Return the sampler for one density."""
        step = self.build_kernel()

        def init(position, rng_key=None):
            return self.init(position, log_density)

        def one_step(rng_key, state):
            return step(rng_key, state, log_density, step_size, inverse_mass_matrix)

        return SamplingPair(init, one_step)

    def init(self, position: Any, logdensity_fn: Callable, rng_key: Any = None) -> HostedState:
        """Return the state at a position."""
        vector, unravel = ravel_pytree(position)
        density = _density(logdensity_fn, unravel)
        return _hosted(self.kernel.init(vector, density), density, unravel)

    def build_kernel(self, *_: Any, **__: Any) -> Callable:
        """Return ``step(rng_key, state, logdensity_fn, step_size, inverse_mass_matrix)``.

        Arguments, such as BlackJAX's integrators, are not used: the kernel has its own.
        """

        def step(rng_key, state, logdensity_fn, step_size=None, inverse_mass_matrix=None):
            vector, unravel = ravel_pytree(state.position)
            density = _density(logdensity_fn, unravel)
            tuning = self._tuning(vector, step_size, inverse_mass_matrix)
            new, info = self.kernel.step(_typed(rng_key), state.kernel, density, tuning)
            said = HostedInfo(info.acceptance, info.accepted, info.divergent, info.not_finite)
            return _hosted(new, density, unravel), said

        return step

    def _tuning(self, vector: jax.Array, step_size: Any, covariance: Any) -> Tuning:
        tuning = self.kernel.default_tuning(len(vector), vector.dtype)
        if step_size is not None:
            tuning = tuning._replace(step_size=jnp.asarray(step_size, vector.dtype))
        if covariance is None:
            return tuning
        covariance = jnp.asarray(covariance, vector.dtype)
        dim = len(vector)
        if covariance.shape not in ((), (dim,), (dim, dim)):
            raise ValueError(
                f"inverse_mass_matrix must have shape ({dim},) or ({dim}, {dim}), got "
                f"{covariance.shape}"
            )
        if covariance.ndim == 2:
            return tuning._replace(factor=jnp.linalg.cholesky(covariance))
        return tuning._replace(factor=jnp.broadcast_to(jnp.sqrt(covariance), (dim,)))


def _density(logdensity_fn: Callable, unravel: Callable) -> Density:
    return Target(log_density=lambda x: logdensity_fn(unravel(x))).density()


def _hosted(state: Any, density: Density, unravel: Callable) -> HostedState:
    components = getattr(state, "components", None)
    value = density(state.position) if components is None else density.combine(components)
    gradient: Any = getattr(state, "gradient", ())
    has_gradient = not isinstance(gradient, tuple)
    return HostedState(
        unravel(state.position), value, unravel(gradient) if has_gradient else None, state
    )


def _typed(key: Any) -> jax.Array:
    """Return a key of this package's kind: BlackJAX's are often plain integers."""
    is_typed = jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key)
    return key if is_typed else jax.random.wrap_key_data(jnp.asarray(key, np.uint32))
