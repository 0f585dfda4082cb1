"""What all kernels share: their protocol, their state, their tuning and the accept step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.errors import MissingGradientError
from bayeskit.inference import random
from bayeskit.inference.law import INVARIANT, REVERSIBLE, Law, LawKind, Measure
from bayeskit.inference.measure import Density, PointState

__all__ = [
    "Kernel",
    "LowRankFactor",
    "PointState",
    "StepInfo",
    "Tuning",
    "check_density",
    "metropolis",
    "not_usable",
    "settle",
]


# What a kernel moves: a PointState, or a state of its own.
State = TypeVar("State")


class StepInfo(NamedTuple):
    """What one step says about itself.

    Parameters
    ----------
    acceptance : () array in [0, 1]
        Acceptance probability of the proposal.
    accepted : () bool array
    not_finite : () bool array
        The proposal's log density was NaN or +inf; it was rejected.
    divergent : () bool array
        The energy error of a trajectory exceeded 1000.

    Examples
    --------
    On a target that is flat every proposal is accepted:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> density = Target(log_density=lambda x: 0.0 * x[0]).density()
    >>> walk = bi.RandomWalk()
    >>> state = walk.init(jnp.zeros(1), density)
    >>> _, info = walk.step(jax.random.key(0), state, density, walk.default_tuning(1))
    >>> float(info.acceptance), bool(info.accepted), bool(info.divergent)
    (1.0, True, False)
    """

    acceptance: jax.Array
    accepted: jax.Array
    not_finite: jax.Array
    divergent: jax.Array


class LowRankFactor(NamedTuple):
    r"""A square root of a covariance that is diagonal but for a few directions.

    :math:`L = D\,(I + V\,(\mathrm{diag}(s) - I)\,V')` with orthonormal columns of V: the
    standardised coordinates have standard deviation s along V and 1 across.

    Parameters
    ----------
    scale : (dim,) array
        Diagonal of D.
    directions : (dim, rank) array
        V.
    stretch : (rank,) array
        s, positive.
    """

    scale: Any
    directions: Any
    stretch: Any

    def along(self, z: jax.Array, stretch: jax.Array) -> jax.Array:
        """Return z with its parts along the directions multiplied by ``stretch``."""
        return z + self.directions @ ((stretch - 1.0) * (self.directions.T @ z))


class Tuning(NamedTuple):
    """Parameters of a kernel, frozen while it moves.

    Parameters
    ----------
    step_size : () array, positive
    mean : (dim,) array
        Centre of the particles; used by independent proposals.
    factor : (dim, dim) lower triangular array, (dim,) array, or LowRankFactor
        Square root L of the metric, L L' close to the covariance of the target.
    phase : () array in [0, 1)
        Place in the low-discrepancy sequence that varies trajectory lengths.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> tuning = bi.Tuning(0.5, mean=jnp.array([1.0, 0.0]), factor=jnp.array([2.0, 3.0]))
    >>> tuning.scale(jnp.array([1.0, 1.0])).tolist()
    [2.0, 3.0]
    >>> tuning.whiten(jnp.array([5.0, 6.0])).tolist()
    [2.0, 2.0]
    """

    step_size: Any
    mean: Any
    factor: Any
    phase: Any = 0.5

    def scale(self, z: jax.Array) -> jax.Array:
        """Return L z."""
        if isinstance(self.factor, LowRankFactor):
            return self.factor.scale * self.factor.along(z, self.factor.stretch)
        return self.factor * z if self.factor.ndim == 1 else self.factor @ z

    def scale_transposed(self, z: jax.Array) -> jax.Array:
        """Return L' z."""
        if isinstance(self.factor, LowRankFactor):
            return self.factor.along(self.factor.scale * z, self.factor.stretch)
        return self.factor * z if self.factor.ndim == 1 else self.factor.T @ z

    def whiten(self, x: jax.Array) -> jax.Array:
        """Return the solution z of L z = x - mean."""
        centred = x - self.mean
        if isinstance(self.factor, LowRankFactor):
            return self.factor.along(centred / self.factor.scale, 1.0 / self.factor.stretch)
        if self.factor.ndim == 1:
            return centred / self.factor
        return jax.scipy.linalg.solve_triangular(self.factor, centred, lower=True)


@dataclass(frozen=True)
class Kernel:
    r"""A Markov kernel that leaves a target invariant.

    A subclass writes :meth:`step` for one particle and draws through
    :mod:`bayeskit.inference.random` only. It is a frozen dataclass: equal settings are equal
    kernels and share compiled programs.

    Examples
    --------
    A kernel of one's own, which mirrors its position and has nothing to tune:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> class Mirror(bi.Kernel):
    ...     name = "mirror"
    ...
    ...     def default_step_size(self, dim):
    ...         return 1.0
    ...
    ...     def step(self, key, state, density, tuning):
    ...         there = self.init(-state.position, density)
    ...         ratio = density.combine(there.components) - density.combine(state.components)
    ...         return bi.metropolis(key, state, there, ratio, bi.not_usable(there.components))
    >>> density = Target(log_density=lambda x: x[0]).density()
    >>> state = Mirror().init(jnp.array([1.0]), density)
    >>> _, info = Mirror().step(jax.random.key(0), state, density, Mirror().default_tuning(1))
    >>> round(float(jnp.log(info.acceptance)), 4)
    -2.0
    """

    name: ClassVar[str] = "kernel"
    reversible: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False
    target_acceptance: ClassVar[float] = 0.234
    # Adaptation goes no further where a larger step size means nothing.
    max_step_size: ClassVar[float] = math.inf

    @property
    def law_kind(self) -> LawKind:
        """Reversible or invariant."""
        return REVERSIBLE if self.reversible else INVARIANT

    def law(self, measure: Measure) -> Law:
        """Return the law that this kernel states for a target."""
        return Law(measure, self.law_kind, (f"{self.name} moves at fixed tuning",))

    def init(self, position: jax.Array, density: Density) -> PointState:
        """Return the state at a position, with all cached values computed."""
        check_density(self, position, density)
        if self.needs_gradient:
            return PointState(position, *density.components_and_gradient(position))
        return PointState(position, density.components(position))

    def refresh(self, state: PointState, density: Density) -> PointState:
        """Return the state with its cached values recomputed for another density."""
        return self.init(state.position, density)

    def step(
        self, key: Any, state: PointState, density: Density, tuning: Tuning
    ) -> tuple[PointState, StepInfo]:
        """Return the next state and what happened on the way."""
        raise NotImplementedError(
            f"{type(self).__name__} must define step(key, state, density, tuning), which "
            "returns the next state and a StepInfo"
        )

    def default_step_size(self, dim: int) -> float:
        """Return the step size to start tuning from, in whitened coordinates."""
        raise NotImplementedError(
            f"{type(self).__name__} must define default_step_size(dim), the step size to start "
            "tuning from, in whitened coordinates: 1.0 for a kernel that has none"
        )

    def default_tuning(self, dim: int, dtype: Any = float) -> Tuning:
        """Return the tuning for a standardised target of dimension ``dim``."""
        dtype = jnp.result_type(dtype)
        # NumPy arrays: to make them with JAX would compile a program for each shape.
        return Tuning(
            np.asarray(self.default_step_size(dim), dtype),
            np.zeros(dim, dtype),
            np.ones(dim, dtype),
            np.asarray(0.5, dtype),
        )


def check_density(kernel: Kernel, position: jax.Array, density: Density) -> None:
    """Refuse positions and targets that this kernel cannot move; costs nothing under jit.

    Raises
    ------
    TypeError
        For integer positions, or positions that are no vector.
    MissingGradientError
        For a kernel that follows gradients and a target without.
    """
    dtype = getattr(position, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{kernel.name} moves vectors of floating-point numbers, got a position of "
            f"dtype {dtype or type(position).__name__}. Convert it, or use a kernel for "
            "discrete spaces"
        )
    if jnp.ndim(position) != 1:
        raise TypeError(
            f"{kernel.name} moves positions of shape (dim,), got shape {jnp.shape(position)}. "
            "Flatten the target with Target.on_vectors"
        )
    if kernel.needs_gradient and not density.target.has_gradient:
        raise MissingGradientError(
            f"{kernel.name} follows the gradient of the log density, but the target "
            f"{density.target.name} declares has_gradient=False. Use RandomWalk or Independent"
        )


def metropolis(
    key: Any,
    current: State,
    proposal: State,
    log_ratio: jax.Array,
    not_finite: jax.Array,
    divergent: jax.Array | bool = False,
) -> tuple[State, StepInfo]:
    """Accept or reject a proposal *with all its cached values*.

    Parameters
    ----------
    key : JAX key, lane key or enumerating key
    current, proposal : PointState, or a kernel's own kind of state
    log_ratio : () array
        Log of the Metropolis-Hastings-Green ratio; NaN rejects.
    not_finite : () bool array
        Rejects whatever the ratio says: a density of +inf would be accepted for ever.
    divergent : () bool array
        Is told in the info, and rejects nothing.

    Returns
    -------
    (state, StepInfo)
        The proposal where it was accepted, else the state of before; and what happened.

    Examples
    --------
    A proposal of higher density is accepted, unless a density on the way was no number:

    >>> import jax
    >>> from bayeskit import inference as bi
    >>> for broken in (False, True):
    ...     state, info = bi.metropolis(jax.random.key(0), 7.0, 8.0, 0.5, not_finite=broken)
    ...     print(float(state), float(info.acceptance))
    8.0 1.0
    7.0 0.0
    """
    log_ratio = jnp.where(not_finite | jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    accepted = random.accept(key, log_ratio)
    return settle(accepted, current, proposal, log_ratio, not_finite, divergent)


def settle(
    accepted: jax.Array,
    current: State,
    proposal: State,
    log_ratio: jax.Array,
    not_finite: jax.Array,
    divergent: jax.Array | bool = False,
) -> tuple[State, StepInfo]:
    """Return the state after a decision, with every cached value of the one it is at."""
    state = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, current)
    acceptance = jnp.exp(jnp.minimum(log_ratio, 0.0))
    return state, StepInfo(acceptance, accepted, not_finite, jnp.asarray(divergent))


def not_usable(components: jax.Array) -> jax.Array:
    """Return whether cached components hold NaN or +inf; -inf is a legitimate zero density.

    Parameters
    ----------
    components : (..., J) array
        Log densities.

    Returns
    -------
    (...) bool array

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> bi.not_usable(jnp.array([[0.0, jnp.nan], [0.0, -jnp.inf]])).tolist()
    [True, False]
    """
    return jnp.any(jnp.isnan(components) | (components == jnp.inf), axis=-1)
