"""Samplers written as a pair of functions (init, step), as in BlackJAX, as kernels, and back.

Nothing here imports BlackJAX: any pair of functions of that shape will do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, StepInfo, check_density
from bayeskit.interop.to_blackjax import to_blackjax

__all__ = ["GuestState", "PairKernel", "from_blackjax", "to_blackjax"]


def from_blackjax(
    build: Any,
    *,
    reversible: bool = True,
    needs_gradient: bool = True,
    step_size: float = 0.5,
    name: str | None = None,
) -> PairKernel:
    """Return a sampler of the form (init, step) as a kernel, to validate it or to move with.

    Parameters
    ----------
    build : pair of callables, or callable
        ``init(position)`` or ``init(position, key)`` returns a state that has a ``position``
        or is one; ``step(key, state)`` returns the next state and what happened. A BlackJAX
        ``SamplingAlgorithm`` is such a pair. Or a function that builds the pair from a log
        density; if it has a parameter called ``tuning``, it gets the
        :class:`~bayeskit.inference.kernels.base.Tuning` as well, so that its step size and
        metric can follow the target.
    reversible : bool
        Whether the sampler is reversible, not just invariant.
    needs_gradient : bool
    step_size : float
        Step size that tuning starts from.
    name : str, optional
        Default: the name of the function.

    Returns
    -------
    PairKernel

    Raises
    ------
    TypeError
        For what is neither a pair nor a function.

    Notes
    -----
    What ``init`` computes from the position alone is a cache, which ``refresh`` recomputes.
    What it draws with its key, such as a momentum, and what depends on neither, such as a
    counter, is kept. Draws are made by the first step, from its key, so that they have their
    law where a kernel starts. What ``init`` computes from the position must not depend on the
    tuning, which is not known there; if it does, it is refused. A pair that was built for one
    density ignores the density it is given: validate it on that target alone.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.interop.blackjax import from_blackjax
    >>> def independent(log_density):
    ...     def step(key, x):
    ...         choose, draw = jax.random.split(key)
    ...         proposal = 3.0 * jax.random.normal(draw, x.shape)
    ...         q = lambda z: -jnp.sum(z**2) / 18.0
    ...         ratio = log_density(proposal) - log_density(x) + q(x) - q(proposal)
    ...         accepted = jnp.log(jax.random.uniform(choose)) < ratio
    ...         return jnp.where(accepted, proposal, x), ()
    ...     return lambda x: x, step
    >>> kernel = from_blackjax(independent, needs_gradient=False)
    >>> kernel
    independent
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> state = kernel.init(jnp.zeros(2), density)
    >>> state, info = kernel.step(jax.random.key(0), state, density, kernel.default_tuning(2))
    >>> state.position.shape
    (2,)
    """
    if not _is_pair(build) and not callable(build):
        raise TypeError(
            f"from_blackjax takes a pair (init, step) or a function of a log density that "
            f"returns one, got {type(build).__name__}"
        )
    return PairKernel(
        build=build,
        name=name or str(getattr(build, "__name__", type(build).__name__)),
        reversible=reversible,
        needs_gradient=needs_gradient,
        step_size=step_size,
    )


class GuestState(NamedTuple):
    """The state of a pair, and whether its own random variables have been drawn.

    Parameters
    ----------
    guest : pytree
    started : () int32 array, 0 or 1

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit.interop.blackjax import from_blackjax
    >>> rotate = (lambda x: x, lambda key, x: (x[::-1], ()))  # init, step
    >>> kernel = from_blackjax(rotate, needs_gradient=False, name="rotate")
    >>> density = Target(log_density=lambda x: -0.5 * jnp.sum(x**2)).density()
    >>> first = kernel.init(jnp.array([1.0, 2.0]), density)
    >>> then, _ = kernel.step(jax.random.key(0), first, density, kernel.default_tuning(2))
    >>> [(state.position.tolist(), int(state.started)) for state in (first, then)]
    [([1.0, 2.0], 0), ([2.0, 1.0], 1)]
    """

    guest: Any
    started: jax.Array

    @property
    def position(self) -> Any:
        """The position that the state of the pair holds."""
        return _position(self.guest)


@dataclass(frozen=True, kw_only=True, repr=False)
class PairKernel(Kernel):
    """A pair (init, step) as a kernel. See :func:`from_blackjax`.

    Parameters
    ----------
    name : str
    reversible, needs_gradient : bool
    build : callable -> (init, step)
        As in :func:`from_blackjax`.
    step_size : float
        Before tuning.

    Examples
    --------
    >>> from bayeskit.interop.blackjax import from_blackjax
    >>> rotate = (lambda x: x, lambda key, x: (x[::-1], ()))  # init, step
    >>> kernel = from_blackjax(rotate, needs_gradient=False, name="rotate", step_size=0.1)
    >>> kernel, kernel.reversible, round(float(kernel.default_tuning(2).step_size), 3)
    (rotate, True, 0.1)
    """

    build: Any
    name: str  # type: ignore[misc]
    reversible: bool = True  # type: ignore[misc]
    needs_gradient: bool = True  # type: ignore[misc]
    step_size: float = 0.5

    def __repr__(self):
        return self.name

    def default_step_size(self, dim):
        """Return the step size that tuning starts from."""
        return self.step_size

    def init(self, position, density):
        """Return the state at a position; what the pair draws itself waits for a step."""
        check_density(self, position, density)
        start = self._start(density)
        tuning = self.default_tuning(len(position), position.dtype)
        _roles(start, position, tuning, self.name)
        return GuestState(start(position, _no_key(), tuning), jnp.int32(0))

    def refresh(self, state, density):
        """Return the state with what belongs to the position alone recomputed."""
        position = state.position
        if not isinstance(state, GuestState):  # a particle of a population
            return self.init(position, density)
        start = self._start(density)
        tuning = self.default_tuning(len(position), position.dtype)
        cached = _roles(start, position, tuning, self.name).cached
        fresh = start(position, _no_key(), tuning)
        return state._replace(guest=_choose(cached, fresh, state.guest))

    def step(self, key, state, density, tuning):
        """Return the next state and its info."""
        start_key, step_key = jax.random.split(_raw(random.real_key(key)))
        start, (_, step) = self._start(density), self._pair(density, tuning)
        guest, position = state.guest, state.position
        drawn = _roles(start, position, tuning, self.name).drawn
        if any(jax.tree.leaves(drawn)):
            first = _choose(drawn, start(position, start_key, tuning), guest)
            guest = jax.tree.map(lambda a, b: jnp.where(state.started > 0, b, a), first, guest)
        guest, info = step(step_key, guest)
        moved = jnp.any(_position(guest) != position)
        return GuestState(guest, jnp.int32(1)), _step_info(info, moved)

    def _pair(self, density, tuning) -> tuple[Callable, Callable]:
        if _is_pair(self.build):
            return self.build
        return self.build(density, **({"tuning": tuning} if _takes_tuning(self.build) else {}))

    def _start(self, density) -> Callable:
        """Return the function (position, key, tuning) -> state of the pair."""

        def start(position, key, tuning):
            init, _ = self._pair(density, tuning)
            takes_key = len(inspect.signature(init).parameters) > 1
            return init(position, key) if takes_key else init(position)

        return start


def _is_pair(thing: Any) -> bool:
    return isinstance(thing, tuple) and len(thing) == 2 and all(map(callable, thing))


def _takes_tuning(build: Callable) -> bool:
    return "tuning" in inspect.signature(build).parameters


def _position(guest: Any) -> Any:
    return getattr(guest, "position", guest)


def _no_key() -> jax.Array:
    return jax.random.PRNGKey(0)


def _raw(key: jax.Array) -> jax.Array:
    """Return a key as plain integers: a guest may keep it in its state, which is compared."""
    with jax.enable_x64(False):
        return jax.random.bits(key, _no_key().shape, jnp.uint32)


def _choose(mask: Any, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda m, a, b: a if m else b, mask, new, old)


def _step_info(info: Any, moved: jax.Array) -> StepInfo:
    """Return what a guest says about its step under the names that samplers use for it."""
    acceptance = getattr(info, "acceptance_rate", np.nan)
    divergent = getattr(info, "is_divergent", False)
    return StepInfo(jnp.asarray(acceptance), moved, jnp.asarray(False), jnp.asarray(divergent))


# ---------------------------------------------------------------- what a state is made of


class _Roles(NamedTuple):
    """For each leaf of a state, whether it is computed from the position alone, or drawn."""

    cached: Any
    drawn: Any


def _roles(start: Callable, position: Any, tuning: Any, name: str) -> _Roles:
    """Find by tracing what the leaves of a starting state depend on.

    Raises
    ------
    TypeError
        If a cached value depends on the tuning.
    """
    given = (position, _no_key(), tuning)
    closed, spec = jax.make_jaxpr(start, return_shape=True)(*given)
    inputs = iter(closed.jaxpr.invars)
    groups = [[next(inputs) for _ in jax.tree.leaves(tree)] for tree in given]
    on_position, on_key, on_tuning = (_reached(closed.jaxpr, group) for group in groups)
    cached = [a and not b for a, b in zip(on_position, on_key, strict=True)]
    named, structure = jax.tree_util.tree_flatten_with_path(spec)
    paths = [jax.tree_util.keystr(path) for path, _ in named]
    for path, is_cached, is_tuned in zip(paths, cached, on_tuning, strict=True):
        if is_cached and is_tuned:
            raise TypeError(
                f"{name}: state{path} is computed from the position and the tuning, which is "
                "not known where a chain starts: let it depend on the position alone"
            )
    return _Roles(jax.tree.unflatten(structure, cached), jax.tree.unflatten(structure, on_key))


def _reached(jaxpr: Any, sources: list) -> list[bool]:
    """Return for each output of a program whether it depends on any of some inputs."""
    marked = set(sources)
    for equation in jaxpr.eqns:
        given = [_is_variable(v) and v in marked for v in equation.invars]
        if not any(given):
            continue
        if equation.primitive.name in ("jit", "pjit"):
            inner = equation.params["jaxpr"].jaxpr
            chosen = [v for v, is_marked in zip(inner.invars, given, strict=True) if is_marked]
            reached = _reached(inner, chosen)
        else:
            reached = [True] * len(equation.outvars)
        marked.update(v for v, yes in zip(equation.outvars, reached, strict=True) if yes)
    return [_is_variable(v) and v in marked for v in jaxpr.outvars]


def _is_variable(thing: Any) -> bool:
    return not hasattr(thing, "val")  # a literal has a value
