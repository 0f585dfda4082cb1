"""Feynman-Kac models: a Markov chain and the potentials that weigh it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.errors import MissingDensityError
from bayeskit.inference.law import Measure, Tagged

__all__ = ["FeynmanKac"]


class FeynmanKac:
    r"""A Feynman-Kac model: a Markov chain and the potentials that weigh it.

    .. math::
        \gamma_t(dx_{0:t}) = M_0(dx_0) G_0(x_0)
        \prod_{s=1}^{t} M_s(x_{s-1}, dx_s) G_s(x_{s-1}, x_s)

    Parameters
    ----------
    initial : callable (key) -> x
        One draw from :math:`M_0`.
    log_g0 : callable (x) -> () array
    kernel : callable (key, t, x_previous) -> x
        One draw from :math:`M_t(x_{t-1}, \cdot)`.
    log_g : callable (t, x_previous, x) -> () array
    num_steps : int
        Number of times, ``t = 0 .. num_steps - 1``.
    log_m0 : callable (x) -> () array, optional
        Log density of :math:`M_0`, for moves of parameters.
    log_m : callable (t, x_previous, x) -> () array, optional
        Log density of :math:`M_t(x_{t-1}, \cdot)` at x. Backward sampling and ancestor
        sampling need it.
    log_m_bound : callable (t) -> () array, optional
        A bound of ``log_m`` at time t over all pairs, for backward sampling by rejection.
    initial_from_uniforms : callable (u) -> x, optional
        The draw from :math:`M_0` as a function of uniforms (uniform_dim,), for quasi-Monte
        Carlo.
    kernel_from_uniforms : callable (t, x_previous, u) -> x, optional
        The same for :math:`M_t`.
    uniform_dim : int
        How many uniforms these take.
    name : str
    same_paths : FeynmanKac, optional
        A model whose measure on whole paths is the same, though not its potentials and hence
        not what particles stand for on the way: this one is it, twisted.

    Raises
    ------
    ValueError
        If there is not at least one time.

    Notes
    -----
    The attributes ``initial``, ``log_g0`` and ``log_g`` declare which measures they connect;
    blocks built from them carry a law. Everything may depend on parameters that are traced:
    a model with parameters is a function ``theta -> FeynmanKac``.

    References
    ----------
    Del Moral (2004), *Feynman-Kac formulae*; Chopin & Papaspiliopoulos (2020), chapter 5.

    Examples
    --------
    A random walk, seen to be 1 at three times; constants are left out of the densities:

    >>> import jax.numpy as jnp
    >>> from bayeskit import FeynmanKac
    >>> from bayeskit.inference import random
    >>> walk = FeynmanKac(
    ...     initial=random.normal,
    ...     log_g0=lambda x: -0.5 * (x - 1.0) ** 2,
    ...     kernel=lambda key, t, x: x + random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=3,
    ...     log_m0=lambda x: -0.5 * x**2,
    ...     log_m=lambda t, before, x: -0.5 * (x - before) ** 2,
    ... )
    >>> float(walk.log_density(jnp.array([0.0, 1.0, 1.0])))
    -1.0
    """

    def __init__(
        self,
        *,
        initial: Callable,
        log_g0: Callable,
        kernel: Callable,
        log_g: Callable,
        num_steps: int,
        log_m0: Callable | None = None,
        log_m: Callable | None = None,
        log_m_bound: Callable | None = None,
        initial_from_uniforms: Callable | None = None,
        kernel_from_uniforms: Callable | None = None,
        uniform_dim: int = 1,
        name: str = "γ",
        same_paths: FeynmanKac | None = None,
    ):
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        start = Measure("M0", owner=self)
        self.measure = Measure(name, owner=self)
        self.num_steps = num_steps
        self.initial = Tagged(initial, start, start, "M0")
        self.log_g0 = Tagged(lambda t, x: log_g0(x), start, self.measure.at("0"), "G0")
        self.kernel = kernel
        self.log_g = Tagged(log_g, self.measure.at("t-1"), self.measure.at("t"), "M_t, G_t")
        self.log_m0 = log_m0
        self.log_m = log_m
        self.log_m_bound = log_m_bound
        self.initial_from_uniforms = initial_from_uniforms
        self.kernel_from_uniforms = kernel_from_uniforms
        self.uniform_dim = uniform_dim
        self.same_paths = same_paths

    @property
    def paths(self) -> Measure:
        r""":math:`\gamma_T` on whole paths, as laws of smoothers speak of it."""
        if self.same_paths is not None:
            return self.same_paths.paths
        return Measure(f"{self.measure.name} on paths", owner=self)

    def require(self, attribute: str, what: str) -> Callable:
        """Return an optional function of the model.

        Parameters
        ----------
        attribute : str
            Such as ``"log_m"``.
        what : str
            Who needs it, for the message.

        Raises
        ------
        MissingDensityError
            If the model was built without it.
        """
        function = getattr(self, attribute)
        if function is None:
            raise MissingDensityError(
                f"{what} needs {attribute}, but the Feynman-Kac model {self.measure.name} was "
                f"built without it: give FeynmanKac({attribute}=...)"
            )
        return function

    def log_step(self, t: Any, before: Any, after: Any) -> jax.Array:
        r"""Return :math:`\log M_t(x_{t-1}, x_t)\, G_t(x_{t-1}, x_t)`.

        -inf where :math:`M_t` is zero or the potential is NaN, as for weights.

        Raises
        ------
        MissingDensityError
            Without ``log_m``.
        """
        log_m = self.require("log_m", "the density of a step")(t, before, after)
        log_g = self.log_g(t, before, after)
        return jnp.where((log_m == -jnp.inf) | jnp.isnan(log_g), -jnp.inf, log_m + log_g)

    def log_density(self, path: Any) -> jax.Array:
        r"""Return :math:`\log \gamma_T(x_{0:T})` of one path with leading axis num_steps.

        Raises
        ------
        MissingDensityError
            Without ``log_m0`` or ``log_m``.
        """
        log_m0 = self.require("log_m0", "the density of a path")
        self.require("log_m", "the density of a path")
        first = jax.tree.map(lambda x: x[0], path)
        total = log_m0(first) + self.log_g0(0, first)
        if self.num_steps == 1:
            return total
        before = jax.tree.map(lambda x: x[:-1], path)
        after = jax.tree.map(lambda x: x[1:], path)
        times = jnp.arange(1, self.num_steps)
        return total + jnp.sum(jax.vmap(self.log_step)(times, before, after))
