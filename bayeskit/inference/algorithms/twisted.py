"""Twisted particle filters: dynamics that look ahead, potentials that pay for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from bayeskit.inference.blocks import Block
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.law import require

__all__ = ["Untwist", "twisted_model", "untwist"]


def twisted_model(
    model: FeynmanKac,
    *,
    log_psi: Callable,
    initial: Callable,
    kernel: Callable,
    log_initial_mean: Callable,
    log_kernel_mean: Callable,
) -> FeynmanKac:
    r"""Return a model with its dynamics twisted by positive functions :math:`\psi_t`.

    .. math::
        M_0^\psi(dx) = \frac{M_0(dx)\,\psi_0(x)}{M_0(\psi_0)}, \qquad
        M_t^\psi(x, dx') = \frac{M_t(x, dx')\,\psi_t(x')}{M_t(\psi_t)(x)},

    and potentials that make up for it,

    .. math::
        G_0^\psi(x_0) = M_0(\psi_0)\, G_0(x_0)\, \frac{M_1(\psi_1)(x_0)}{\psi_0(x_0)}, \qquad
        G_t^\psi(x, x') = G_t(x, x')\, \frac{M_{t+1}(\psi_{t+1})(x')}{\psi_t(x')},

    the last without :math:`M_{t+1}(\psi_{t+1})`. The measure on whole paths, and hence the
    evidence, is that of the model for any :math:`\psi`. With :math:`\psi_t(x) = E[\prod_{s
    \ge t} G_s \mid x_t = x]` every potential but the first is 1, and the estimate has no
    variance.

    Parameters
    ----------
    model : FeynmanKac
        Its potential at t must not depend on the state before for the last claim.
    log_psi : callable (t, x) -> () array
    initial : callable (key) -> x
        One draw from the twisted :math:`M_0`.
    kernel : callable (key, t, x_previous) -> x
        One draw from the twisted :math:`M_t`.
    log_initial_mean : callable () -> () array
        :math:`\log M_0(\psi_0)`.
    log_kernel_mean : callable (t, x_previous) -> () array
        :math:`\log M_t(\psi_t)(x_{t-1})`. Called for t up to num_steps, where the result is
        not used.

    Returns
    -------
    FeynmanKac

    Notes
    -----
    The particles of the last time stand for the measure of the model; those of earlier times
    stand for one that looks ahead. :func:`untwist` says so after a filter; smoothers take the
    twisted model, by whose dynamics particles moved, and their paths stand for the model. Where
    the model has ``log_m0`` and ``log_m``, so has the twisted one.

    References
    ----------
    Guarniero, Johansen & Lee (2017), *The iterated auxiliary particle filter*; Heng, Bishop,
    Deligiannidis & Doucet (2020), *Controlled sequential Monte Carlo*.

    Examples
    --------
    A walk on two places that is soon to be caught unless it stays at 1:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> log_half = jnp.log(jnp.full(2, 0.5))
    >>> worth = jnp.log(jnp.array([0.1, 1.0]))
    >>> coin = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.categorical(key, log_half),
    ...     log_g0=lambda x: worth[x],
    ...     kernel=lambda key, t, x: bi.random.categorical(key, log_half),
    ...     log_g=lambda t, before, x: worth[x],
    ...     num_steps=3,
    ... )
    >>> twisted = bi.twisted_model(
    ...     coin,
    ...     log_psi=lambda t, x: worth[x],
    ...     initial=lambda key: bi.random.categorical(key, log_half + worth),
    ...     kernel=lambda key, t, x: bi.random.categorical(key, log_half + worth),
    ...     log_initial_mean=lambda: jnp.log(0.55),
    ...     log_kernel_mean=lambda t, x: jnp.log(0.55),
    ... )
    >>> block = bi.particle_filter(twisted, 4) >> bi.untwist(twisted)
    >>> population = bi.run(block, key=0)
    >>> bool(abs(population.log_evidence - 3 * jnp.log(0.55)) < 1e-5)
    True
    """
    last = model.num_steps - 1

    def ahead(t, x):
        """What the next step was given in advance, over what this step was."""
        coming = log_kernel_mean(t + 1, x)
        return jnp.where(t < last, coming, 0.0) - log_psi(t, x)

    plain_m0: Any = model.log_m0
    plain_m: Any = model.log_m
    log_m0 = plain_m0 and (lambda x: plain_m0(x) + log_psi(0, x) - log_initial_mean())

    def log_m(t, before, x):
        return plain_m(t, before, x) + log_psi(t, x) - log_kernel_mean(t, before)

    return FeynmanKac(
        initial=initial,
        log_g0=lambda x: log_initial_mean() + model.log_g0(0, x) + ahead(0, x),
        kernel=kernel,
        log_g=lambda t, before, x: model.log_g(t, before, x) + ahead(t, x),
        num_steps=model.num_steps,
        log_m0=log_m0,
        log_m=plain_m and log_m,
        name=f"{model.measure.name} twisted",
        same_paths=model,
    )


@dataclass(frozen=True, eq=False, repr=False)
class Untwist(Block):
    """Call a twisted population by its name at the last time. See :func:`untwist`."""

    twisted: FeynmanKac

    @property
    def name(self):
        return "untwist"

    @property
    def expects(self):
        return self.twisted.measure.at("T")

    def run(self, key, population=None):
        return population._replace(ancestors=None, history=None), {}

    def arrow(self, law):
        require(self.expects, law.measure, f"{self.name}: starts from")
        model: FeynmanKac = self.twisted.same_paths  # type: ignore[assignment]
        return law.then(model.measure.at("T"), "at the last time no twist is left to pay back:")


def untwist(twisted: FeynmanKac) -> Block:
    r"""State that a twisted filter stands for the model itself at the last time (keeps law L2).

    .. math:: \prod_{t=0}^T M_t^\psi G_t^\psi = \prod_{t=0}^T M_t G_t

    for every :math:`\psi`, as what a step was given in advance the next one pays back.

    Parameters
    ----------
    twisted : FeynmanKac
        Of :func:`twisted_model`.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        For a model that is not twisted.

    Notes
    -----
    Nothing is computed. A history is dropped: its populations look ahead, so that a smoother by
    the dynamics of the model would be wrong. Let a smoother by the twisted ones,
    ``backward_sampling(twisted)``, stand in the place of this block.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> dynamics = bi.GaussianDynamics(
    ...     initial_mean=jnp.zeros(1),
    ...     initial_covariance=jnp.eye(1),
    ...     mean=lambda t, x: 0.5 * x,
    ...     covariance=lambda t: jnp.eye(1),
    ...     log_potential=lambda t, x: -0.5 * x[0] ** 2,
    ...     num_steps=3,
    ... )
    >>> twisted = dynamics.twisted(bi.LogQuadratic(jnp.ones((3, 1, 1)), jnp.zeros((3, 1))))
    >>> filtered = bi.particle_filter(twisted, 100)
    >>> str(filtered.law.measure), str((filtered >> bi.untwist(twisted)).law.measure)
    ('γ twisted[T]', 'γ[T]')
    """
    if twisted.same_paths is None:
        raise ValueError(f"untwist needs a model of twisted_model, got {twisted.measure.name}")
    return Untwist(twisted)
