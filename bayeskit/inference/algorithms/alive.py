"""The alive particle filter, for potentials that are zero for most particles."""

from __future__ import annotations

from bayeskit.inference.blocks import Block, extend_alive, scan, spawn_alive
from bayeskit.inference.feynman_kac import FeynmanKac

__all__ = ["alive_filter"]


def alive_filter(model: FeynmanKac, num_particles: int, *, max_rounds: int = 1000) -> Block:
    r"""Return the alive particle filter: at each time it draws until N + 1 are alive (law L2).

    For indicators, such as those of approximate Bayesian computation,
    :math:`G_t(x) = 1\{\rho(x, y_t) \le \epsilon\}`, with which a plain filter may lose all
    particles. With :math:`n_t` trials at time t the evidence is

    .. math:: \hat Z = \prod_t \frac{N}{n_t - 1} .

    Parameters
    ----------
    model : FeynmanKac
        Other potentials that are zero somewhere will do: survivors are then weighed by them.
    num_particles : int
        N.
    max_rounds : int
        At most that many rounds of N trials at each time.

    Returns
    -------
    Block
        For :func:`run`.

    Raises
    ------
    ValueError
        For numbers that are not at least 1.

    Notes
    -----
    Unbiased for any numbers, also where the rounds run out; the evidence is zero only if no
    trial of a time is alive, which :func:`check_collapse` then names. The cost is random: N
    over the chance to be alive, at each time.

    References
    ----------
    Del Moral, Jasra, Lee, Yau & Zhang (2015), *The alive particle filter and its use in
    particle Markov chain Monte Carlo*; Jasra, Lee, Yau & Zhang (2013).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> near = lambda x, y: jnp.where(jnp.abs(x - y) < 0.1, 0.0, -jnp.inf)
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: near(x, 0.5),
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: near(x, 0.5 + t),
    ...     num_steps=4,
    ... )
    >>> population, info = bi.run(bi.alive_filter(walk, 20), key=0, with_info=True)
    >>> int(info["num_alive_2"].min())
    20
    >>> bool(info["num_trials_2"].min() > 40)
    True
    """
    first = spawn_alive(model.initial, model.log_g0, num_particles, max_rounds)
    return first >> scan(extend_alive(model.kernel, model.log_g, max_rounds))
