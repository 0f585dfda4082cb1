"""Particle Gibbs: parameters given a trajectory, a trajectory given parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bayeskit.inference.algorithms.conditional_smc import conditional_smc
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.kernels.base import Kernel, Tuning
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions import Transition, gibbs, transition

__all__ = ["particle_gibbs"]


def particle_gibbs(
    parameters: Kernel | Callable,
    model: Callable[[Any], FeynmanKac],
    num_particles: int,
    *,
    log_prior: Callable[[Any], Any],
    tuning: Tuning | None = None,
    backward: bool = False,
    ancestor: bool = True,
    scheme: str = "multinomial",
) -> Transition:
    r"""Return particle Gibbs for parameters and states (law L3).

    .. math:: \pi(\theta, x_{0:T}) \propto p(\theta)\, \gamma_T^\theta(x_{0:T})

    The parameters move given the trajectory, then the trajectory moves given the *new*
    parameters, by :func:`conditional_smc`.

    Parameters
    ----------
    parameters : Kernel, or callable (state) -> Transition or callable (key) -> theta
        A kernel for the density of the parameters given the trajectory, or a block as
        :func:`gibbs` takes it, for instance an exact draw where priors are conjugate.
        ``state`` is ``{"theta": ..., "x": trajectory}``.
    model : callable (theta) -> FeynmanKac with log_m0 and log_m
    num_particles : int
    log_prior : callable (theta) -> () array
    tuning : Tuning, optional
        Of the kernel.
    backward, ancestor, scheme
        As for :func:`conditional_smc`; ancestors are drawn by default.

    Returns
    -------
    Transition
        Its states are dictionaries with the entries ``"theta"`` and ``"x"``.

    Raises
    ------
    ValueError
        For fewer than two particles.

    References
    ----------
    Andrieu, Doucet & Holenstein (2010); Lindsten, Jordan & Schön (2014).

    Examples
    --------
    The mean of a random walk's steps, with a normal prior:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> def walk(theta):
    ...     return bi.FeynmanKac(
    ...         initial=lambda key: bi.random.normal(key),
    ...         log_g0=lambda x: -0.5 * x**2,
    ...         kernel=lambda key, t, x: x + theta + bi.random.normal(key),
    ...         log_g=lambda t, before, x: -0.5 * (x - t) ** 2,
    ...         log_m0=lambda x: -0.5 * x**2,
    ...         log_m=lambda t, before, x: -0.5 * (x - before - theta) ** 2,
    ...         num_steps=5,
    ...     )
    >>> def draw_mean(state):
    ...     total = state["x"][-1] - state["x"][0]
    ...     return lambda key: total / 5 + bi.random.normal(key) / jnp.sqrt(5.0)
    >>> sampler = bi.particle_gibbs(
    ...     draw_mean, walk, 20, log_prior=lambda theta: -0.5 * theta**2
    ... )
    >>> start = {"theta": jnp.zeros(()), "x": jnp.zeros(5)}
    >>> draws, _ = bi.chain(sampler, start, 100, key=0)
    >>> draws["x"].shape
    (100, 5)
    """

    def log_density(theta, path):
        return log_prior(theta) + model(theta).log_density(path)

    def move_parameters(state):
        given = Target(log_density=lambda theta: log_density(theta, state["x"]))
        return transition(parameters, given, tuning=tuning)

    options: Any = {"backward": backward, "ancestor": ancestor, "scheme": scheme}

    def move_states(state):
        return conditional_smc(model(state["theta"]), num_particles, **options)

    joint = Target(log_density=lambda s: log_density(s["theta"], s["x"]), name="π(θ, x)")
    theta = move_parameters if isinstance(parameters, Kernel) else parameters
    return gibbs(joint, theta=theta, x=move_states)
