"""Kernels of NumPyro, without adaptation, as kernels of this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, StepInfo
from bayeskit.inference.measure import PointState

__all__ = ["NumPyroKernel", "from_numpyro"]


def from_numpyro(
    kernel_factory: Callable,
    *,
    reversible: bool = True,
    step_size: float = 0.5,
    name: str | None = None,
) -> NumPyroKernel:
    """Return an MCMC kernel of NumPyro as a kernel, to validate it or to move with.

    Parameters
    ----------
    kernel_factory : callable
        Builds the kernel, such as :class:`numpyro.infer.NUTS`, from a potential function, the
        negative log density. If it has a parameter called ``tuning``, it gets the
        :class:`~bayeskit.inference.kernels.base.Tuning` as well.
    reversible : bool
        Whether the kernel is reversible, not just invariant.
    step_size : float
        Step size that tuning starts from.
    name : str, optional
        Default: the name of the factory.

    Returns
    -------
    NumPyroKernel

    Raises
    ------
    TypeError
        If the factory is not callable; when the kernel is used, if what it builds does not
        keep a position, its potential energy and gradient, as samplers of ensembles do not.

    Notes
    -----
    The kernel runs with no warm-up steps, so nothing adapts. Between steps only the position
    and its density and gradient are kept.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import HMC
    >>> from bayeskit import Target
    >>> from bayeskit.interop.numpyro_kernels import from_numpyro
    >>> def hmc(potential, tuning):
    ...     settings = {"num_steps": 3, "trajectory_length": None}
    ...     return HMC(potential_fn=potential, step_size=tuning.step_size, **settings)
    >>> kernel = from_numpyro(hmc)
    >>> kernel
    hmc
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.position.shape
    (2,)
    """
    if not callable(kernel_factory):
        raise TypeError(
            "from_numpyro takes a function of a potential function that returns an MCMC "
            f"kernel, got {type(kernel_factory).__name__}"
        )
    return NumPyroKernel(
        factory=kernel_factory,
        name=name or str(getattr(kernel_factory, "__name__", type(kernel_factory).__name__)),
        reversible=reversible,
        step_size=step_size,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class NumPyroKernel(Kernel):
    """A kernel of NumPyro. See :func:`from_numpyro`.

    Parameters
    ----------
    name : str
    reversible : bool
    factory : callable -> kernel of NumPyro
        As in :func:`from_numpyro`.
    step_size : float
        Before tuning.

    Examples
    --------
    >>> from numpyro.infer import BarkerMH
    >>> from bayeskit.interop.numpyro_kernels import from_numpyro
    >>> def barker(potential, tuning):
    ...     return BarkerMH(potential_fn=potential, step_size=tuning.step_size)
    >>> kernel = from_numpyro(barker, name="Barker of NumPyro", step_size=0.25)
    >>> kernel, kernel.reversible, float(kernel.default_tuning(2).step_size)
    (Barker of NumPyro, True, 0.25)
    """

    factory: Callable
    name: str  # type: ignore[misc]
    reversible: bool = True  # type: ignore[misc]
    step_size: float = 0.5

    needs_gradient = True

    def __repr__(self):
        return self.name

    def default_step_size(self, dim):
        """Return the step size that tuning starts from."""
        return self.step_size

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        key, x = random.real_key(key), state.position
        takes_tuning = "tuning" in inspect.signature(self.factory).parameters
        given = {"tuning": tuning} if takes_tuning else {}
        guest = self.factory(lambda position: -density(position), **given)
        # A kernel can only sample after init; what init computes is replaced by what is known.
        start = guest.init(key, 0, x, (), {})
        if not {"z", "potential_energy", "z_grad"} <= set(getattr(start, "_fields", ())):
            raise TypeError(
                f"{self.name} keeps no position with its potential energy and gradient, so it "
                "cannot be adapted: pass a kernel of one chain such as HMC, NUTS or BarkerMH"
            )
        start = start._replace(
            z=x,
            potential_energy=-density.combine(state.components),
            z_grad=-state.gradient,
        )
        end = guest.sample(start, (), {})
        if density.target.num_components == 1:
            components = -end.potential_energy[None] / density.coefficients.astype(x.dtype)
        else:
            components = density.components(end.z)
        info = StepInfo(
            acceptance=end.accept_prob,
            accepted=jnp.any(end.z != x),
            not_finite=jnp.asarray(False),
            divergent=jnp.asarray(getattr(end, "diverging", False)),
        )
        return PointState(end.z, components, -end.z_grad), info
