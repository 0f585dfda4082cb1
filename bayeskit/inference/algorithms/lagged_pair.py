"""A chain and one that lags behind it, and what they add to an average on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.inference.transitions import Pair, Transition
from bayeskit.inference.transitions.coupled import equal

__all__ = ["LaggedPair", "UnbiasedEstimate", "correction_weight"]


class UnbiasedEstimate(NamedTuple):
    """One estimate, whose mean over independent runs is exact.

    Parameters
    ----------
    value : pytree
        The estimate of the posterior mean of h; NaN where the chains did not meet.
    meeting_time : () int32
        When they met; where they did not, the number of steps that were allowed.
    met : () bool array

    Examples
    --------
    A kernel that goes to 3 at once: the chain and the one that lags behind it meet at time 2.

    >>> import jax
    >>> from bayeskit import inference as bi
    >>> to_three = bi.transition(lambda key, x: 3.0 + 0.0 * x, bi.Measure("a point"))
    >>> estimate = bi.unbiased_mcmc(
    ...     bi.coupled(to_three),
    ...     sample_initial=lambda key: bi.random.normal(key),
    ...     h=lambda x: x,
    ...     first=1,
    ...     last=5,
    ... )
    >>> one = jax.jit(estimate)(jax.random.key(0))
    >>> float(one.value), int(one.meeting_time), bool(one.met)
    (3.0, 2, True)
    """

    value: Any
    meeting_time: jax.Array
    met: jax.Array


class PairRun(NamedTuple):
    """Both chains at a time, and the sum so far."""

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


@dataclass(frozen=True, eq=False, repr=False)
class LaggedPair:
    """A chain X and a chain Y that lags behind, moved together until they meet.

    Its methods are the steps of :func:`~bayeskit.inference.unbiased_mcmc`.
    """

    pair: Transition
    sample_initial: Callable
    h: Callable
    first: int
    last: int
    lag: int

    def started(self, x_key: Any, y_key: Any, init_key: Any) -> PairRun:
        """Return both chains at their starts, with what time 0 adds."""
        start = Pair(self.sample_initial(x_key), self.sample_initial(y_key))
        zero = jnp.zeros((), jnp.int32)
        total = jax.tree.map(
            lambda s: jnp.zeros(s.shape, jnp.result_type(s.dtype, float)),
            jax.eval_shape(self.h, start.first),
        )
        return self._counted(
            PairRun(zero, self.pair.init(init_key, start), total, zero, jnp.asarray(False))
        )

    def first_alone(self, key: Any, run: PairRun, _: Any) -> tuple[PairRun, None]:
        """Return the run after a step of X, while Y waits."""
        # Both move as one, which is a step of the first chain.
        moved = self.pair.step(key, Pair(run.pair.first, run.pair.first))[0].first
        time = run.time + 1
        return self._counted(PairRun(time, Pair(moved, run.pair.second), *run[2:])), None

    def both(self, key: Any, run: PairRun, _: Any) -> PairRun:
        """Return the run after a step of both."""
        moved = self.pair.step(key, run.pair)[0]
        return self._counted(run._replace(time=run.time + 1, pair=moved))

    def is_done(self, run: PairRun) -> jax.Array:
        """Return whether they have met and the average is complete."""
        return run.met & (run.time >= self.last)

    def estimate(self, run: PairRun) -> UnbiasedEstimate:
        """Return the sum, or NaN where the steps were not enough."""
        done = self.is_done(run)
        value = jax.tree.map(lambda leaf: jnp.where(done, leaf, jnp.nan), run.total)
        return UnbiasedEstimate(value, run.meeting_time, run.met)

    def _counted(self, run: PairRun) -> PairRun:
        """Return the run with what time adds to the estimate."""
        x, y = self.pair.value(run.pair)
        met = equal(x, y) & (run.time >= self.lag)
        own = (run.time >= self.first) & (run.time <= self.last)
        # Before the lag has passed the second chain has not begun, and its weight is 0.
        owed = correction_weight(run.time, self.first, self.last, self.lag)
        owed = jnp.where(run.met | met, 0, owed)
        total = jax.tree.map(
            lambda all_, hx, hy: (
                all_ + (own * hx + owed * (hx - hy)) / (self.last - self.first + 1)
            ),
            run.total,
            self.h(x),
            self.h(y),
        )
        time = jnp.where(run.met, run.meeting_time, run.time)
        return run._replace(total=total, meeting_time=time, met=run.met | met)
