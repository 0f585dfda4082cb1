"""Unbiased Markov chain Monte Carlo: what a finite chain still lacks, from a coupled one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.transitions import Pair, Transition
from bayeskit.inference.transitions.coupled import equal

__all__ = ["UnbiasedEstimate", "correction_weight", "unbiased_mcmc"]


class UnbiasedEstimate(NamedTuple):
    """One estimate, whose mean over independent runs is exact.

    Parameters
    ----------
    value : pytree
        The estimate of the posterior mean of h; NaN where the chains did not meet.
    meeting_time : () int32
        When they met; where they did not, the number of steps that were allowed.
    met : () bool array
    """

    value: Any
    meeting_time: jax.Array
    met: jax.Array


class _Run(NamedTuple):
    time: jax.Array
    pair: Any
    total: Any
    meeting_time: jax.Array
    met: jax.Array


def correction_weight(time: Any, first: int, last: int, lag: int) -> jax.Array:
    r"""Return how often the difference at a time belongs to the average over first..last.

    The estimate at t adds the differences at t + lag, t + 2 lag, ..., so that the one at s is
    counted for each t in first..last with :math:`s = t + j\,\mathrm{lag}`, :math:`j \ge 1`.
    """
    least = jnp.maximum(1, -((last - time) // lag))
    return jnp.maximum(0, (time - first) // lag - least + 1)


def unbiased_mcmc(
    pair: Transition,
    sample_initial: Callable,
    h: Callable,
    *,
    first: int,
    last: int,
    lag: int = 1,
    max_steps: int = 100_000,
) -> Callable[[Any], UnbiasedEstimate]:
    r"""Return a function of a key whose mean is the posterior mean of h, without any bias.

    A chain X and a chain Y that lags behind are moved together until they meet,
    :math:`X_t = Y_{t - L}` at :math:`t = \tau`. The average of :math:`h(X_t)` over
    first..last has the bias of every chain of finite length; the sum of the differences
    :math:`h(X_t) - h(Y_{t-L})` up to τ removes it:

    .. math:: H = \frac{1}{m - k + 1}\Bigl(\sum_{t=k}^m h(X_t) +
              \sum_{t=k+L}^{\tau-1} w_t\,\bigl(h(X_t) - h(Y_{t-L})\bigr)\Bigr).

    Parameters
    ----------
    pair : Transition
        A coupled transition, such as :func:`~bayeskit.inference.coupled_random_walk`.
    sample_initial : callable (key) -> value
        Where both chains start, independently.
    h : callable (value) -> pytree of arrays
    first, last : int
        k and m. A larger k costs steps and lowers the variance, as a burn-in does.
    lag : int
        L; a lag of many steps lowers the variance as well.
    max_steps : int

    Returns
    -------
    callable (key) -> UnbiasedEstimate
        Independent keys give independent estimates: average over them, each on a core of its
        own, and take the standard error from their spread. Inside
        :func:`~bayeskit.inference.random.lanes` many run at once.

    Raises
    ------
    ValueError
        Unless 0 <= first <= last and lag >= 1.

    Notes
    -----
    Law: exactly unbiased, whatever first, last and lag, if the meeting time has light tails.
    Runs that do not meet within ``max_steps`` are NaN and never left out in silence.

    References
    ----------
    Jacob, O'Leary & Atchadé (2020); Biswas, Jacob & Vanetti (2019) for lags.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * jnp.sum((x - 3) ** 2))
    >>> estimate = bi.unbiased_mcmc(
    ...     bi.coupled_random_walk(target),
    ...     lambda key: bi.random.normal(key, (1,)),
    ...     lambda x: x,
    ...     first=10,
    ...     last=50,
    ...     lag=10,
    ... )
    >>> runs = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 200))
    >>> error = jnp.std(runs.value) / 200**0.5
    >>> bool(jnp.abs(jnp.mean(runs.value) - 3) < 5 * error)
    True
    """
    if not 0 <= first <= last or lag < 1:
        raise ValueError(
            f"unbiased_mcmc averages over first..last with 0 <= first <= last and needs a lag "
            f"of at least 1, got first={first!r}, last={last!r}, lag={lag!r}"
        )

    def counted(run: _Run) -> _Run:
        """Return the run with what time adds to the estimate."""
        x, y = pair.value(run.pair)
        met = equal(x, y) & (run.time >= lag)
        own = (run.time >= first) & (run.time <= last)
        # Before the lag has passed the second chain has not begun, and its weight is 0.
        owed = jnp.where(run.met | met, 0, correction_weight(run.time, first, last, lag))
        total = jax.tree.map(
            lambda all_, hx, hy: all_ + (own * hx + owed * (hx - hy)) / (last - first + 1),
            run.total,
            h(x),
            h(y),
        )
        time = jnp.where(run.met, run.meeting_time, run.time)
        return run._replace(total=total, meeting_time=time, met=run.met | met)

    def alone(key: Any, run: _Run, _: Any) -> tuple[_Run, None]:
        # Both move as one, which is a step of the first chain.
        moved = pair.step(key, Pair(run.pair.first, run.pair.first))[0].first
        time = run.time + 1
        return counted(_Run(time, Pair(moved, run.pair.second), *run[2:])), None

    def jointly(key: Any, run: _Run, _: Any) -> _Run:
        return counted(run._replace(time=run.time + 1, pair=pair.step(key, run.pair)[0]))

    def estimate(key: Any) -> UnbiasedEstimate:
        x_key, y_key, init_key, lag_key, loop_key = random.split(key, 5)
        start = Pair(sample_initial(x_key), sample_initial(y_key))
        zero = jnp.zeros((), jnp.int32)
        total = jax.tree.map(
            lambda s: jnp.zeros(s.shape, jnp.result_type(s.dtype, float)),
            jax.eval_shape(h, start.first),
        )
        run = _Run(zero, pair.init(init_key, start), total, zero, jnp.asarray(False))
        run, _ = random.scan(alone, lag_key, counted(run), jnp.arange(lag))
        run, _ = random.until(
            lambda now: now.met & (now.time >= last), jointly, loop_key, run, max_steps
        )
        complete = run.met & (run.time >= last)
        value = jax.tree.map(lambda leaf: jnp.where(complete, leaf, jnp.nan), run.total)
        return UnbiasedEstimate(value, run.meeting_time, run.met)

    return estimate
