"""Parallel tempering: chains at all temperatures side by side, which exchange their states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bayeskit.inference.kernels import Kernel
from bayeskit.inference.ladder import rungs
from bayeskit.inference.measure import Target, TemperedPath
from bayeskit.inference.transitions import Transition, cycle, exchange, product, repeat, slot
from bayeskit.inference.transitions.base import transition

__all__ = ["parallel_tempering"]


def parallel_tempering(
    target: Target, kernel: Kernel, ladder: Any, *, tuning: Any = None, num_moves: int = 1
) -> Transition:
    r"""Return non-reversible parallel tempering on a ladder of inverse temperatures.

    Chains on :math:`p(x) L(x)^{\lambda_i}` move side by side and exchange their states with
    one neighbour and then with the other. The chain of the prior is drawn anew at every step,
    so that what climbs the ladder from there is independent of the past.

    Parameters
    ----------
    target : Target with log_prior, log_likelihood and sample_prior
    kernel : Kernel
    ladder : (num,) array
        Increasing inverse temperatures from 0 to 1.
    tuning : Tuning with leading axis num, optional
        Parameters of the kernel on each rung.
    num_moves : int
        Kernel steps between exchanges.

    Returns
    -------
    Transition
        Its state holds all rungs; the last is the posterior.

    Notes
    -----
    Cost: num_moves times num kernel steps, which run in one batch.

    References
    ----------
    Syed, Bouchard-Côté, Deligiannidis & Doucet (2022), *Non-reversible parallel tempering*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(
    ...     log_prior=lambda x: -0.5 * jnp.sum((x / 5) ** 2),
    ...     log_likelihood=lambda x: jnp.log(jnp.sum(jnp.exp(-2 * (jnp.abs(x) - 5) ** 2))),
    ...     sample_prior=lambda key: 5 * bi.random.normal(key, (1,)),
    ... )
    >>> tempering = bi.parallel_tempering(target, bi.RandomWalk(), [0.0, 0.1, 0.4, 1.0])
    >>> draws, _ = bi.chain(tempering, jnp.zeros((4, 1)), 200, key=0)
    >>> draws.shape
    (200, 4, 1)
    """
    path = TemperedPath(target)
    stages = rungs(ladder, tuning)
    moves = product(repeat(transition(kernel, path), num_moves), stages)
    prior = transition(_prior_draw(path), path.measure.at("rung 0"), reversible=True)
    return cycle(
        moves,
        slot(prior, 0, moves),
        exchange(path, "even", stages),
        exchange(path, "odd", stages),
    )


def _prior_draw(path: TemperedPath) -> Callable:
    def prior_draw(key: Any, state: Any) -> Any:
        return path.initial(key)

    return prior_draw
