"""Resample-move: a particle filter whose particles also move, at the time they have reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from bayeskit.inference.blocks import Block, extend, move, resample, scan, spawn, weigh
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.kernels.base import Kernel, Tuning
from bayeskit.inference.law import Measure
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions.base import Transition, transition
from bayeskit.inference.transitions.combinators import repeat

__all__ = ["LastTwo", "last_state_move", "resample_move_filter", "with_previous"]


class LastTwo(NamedTuple):
    """A state and the one before it; at time 0 they are the same."""

    previous: Any
    state: Any


def with_previous(model: FeynmanKac) -> FeynmanKac:
    """Return the same model with particles that remember the state before their own."""

    def initial(key):
        x = model.initial(key)
        return LastTwo(x, x)

    return FeynmanKac(
        initial=initial,
        log_g0=lambda pair: model.log_g0(0, pair.state),
        kernel=lambda key, t, pair: LastTwo(pair.state, model.kernel(key, t, pair.state)),
        log_g=lambda t, before, pair: model.log_g(t, before.state, pair.state),
        num_steps=model.num_steps,
        name=model.measure.name,
    )


@dataclass(frozen=True, eq=False, repr=False)
class LastStateMove(Transition):
    """A kernel on the last state given the one before. See :func:`last_state_move`."""

    kernel: Kernel
    model: FeynmanKac
    on: Measure
    tuning: Tuning | None = None

    @property
    def name(self):
        return f"{self.kernel.name} of x_t given x_t-1"

    @property
    def measure(self):
        return self.on

    @property
    def law_kind(self):
        return self.kernel.law_kind

    def conditional(self, previous: Any, t: Any) -> Target:
        r"""Return the target :math:`m_t(x_{t-1}, x)\, G_t(x_{t-1}, x)` of x."""
        log_m = self.model.require("log_m", "a move of the last state")
        log_density = lambda x: log_m(t, previous, x) + self.model.log_g(t, previous, x)
        return Target(log_density=log_density)

    def step(self, key, state, stage=None):
        inner = transition(
            self.kernel, self.conditional(state.previous, stage), tuning=self.tuning
        )
        moved, info = inner.step(key, inner.init(None, state.state))
        return state._replace(state=inner.value(moved)), info


def last_state_move(
    model: FeynmanKac, pairs: FeynmanKac, kernel: Kernel, tuning: Tuning | None = None
) -> Transition:
    r"""Return a move of :math:`x_t` given :math:`x_{t-1}`, which keeps :math:`\gamma_t`.

    Parameters
    ----------
    model : FeynmanKac with log_m
    pairs : FeynmanKac
        The model as :func:`with_previous` returns it.
    kernel : Kernel
    tuning : Tuning, optional
    """
    model.require("log_m", "a move of the last state")
    return LastStateMove(kernel, model, pairs.measure.at("t"), tuning)


def resample_move_filter(
    model: FeynmanKac,
    kernel: Kernel,
    num_particles: int,
    *,
    num_moves: int = 1,
    tuning: Tuning | None = None,
    scheme: str | Block = "systematic",
    ess_below: float | None = 0.5,
    track_lineage: bool = False,
) -> Block:
    r"""Return the resample-move filter, whose particles move at the time they have reached.

    Each particle moves its last state by a kernel that leaves
    :math:`m_t(x_{t-1}, x)\, G_t(x_{t-1}, x)` invariant, so that copies of one particle part
    before they are extended again.

    Parameters
    ----------
    model : FeynmanKac with log_m
        Its states are what the kernel moves: vectors, for most.
    kernel : Kernel
    num_particles : int
    num_moves : int
        Kernel steps at each time.
    tuning : Tuning, optional
        Of the kernel. Default: for a standardised target.
    scheme, ess_below, track_lineage
        As in :func:`particle_filter`.

    Returns
    -------
    Block
        For :func:`run`.

    Raises
    ------
    MissingDensityError
        Without ``log_m``.

    Notes
    -----
    O(num_steps num_particles num_moves). Unbiased (law L2). Particles have a
    ``state`` and the one ``previous`` to it.

    References
    ----------
    Gilks & Berzuini (2001), *Following a moving target: Monte Carlo inference for dynamic
    Bayesian models*.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key, (1,)),
    ...     log_g0=lambda x: -0.5 * x[0] ** 2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key, (1,)),
    ...     log_g=lambda t, before, x: -50.0 * (x[0] - 1.0) ** 2,
    ...     log_m=lambda t, before, x: -0.5 * (x[0] - before[0]) ** 2,
    ...     num_steps=3,
    ... )
    >>> block = bi.resample_move_filter(walk, bi.RandomWalk(), 50)
    >>> bi.run(block, key=0).particles.state.shape
    (50, 1)
    """
    pairs = with_previous(model)
    moves = repeat(last_state_move(model, pairs, kernel, tuning), num_moves)
    start = spawn(pairs.initial, num_particles, track_lineage=track_lineage)
    start = start >> weigh(pairs.log_g0)
    step = extend(pairs.kernel, pairs.log_g) >> resample(scheme, ess_below)
    return start >> scan(step >> move(moves, repeats=1))
