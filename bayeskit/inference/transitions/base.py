"""What a transition is, and how a kernel or a function becomes one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.errors import LawMismatch
from bayeskit.inference import random
from bayeskit.inference.kernels.base import Kernel, StepInfo, Tuning
from bayeskit.inference.law import (
    CONSISTENT,
    COUPLED,
    INVARIANT,
    REVERSIBLE,
    UNKNOWN,
    Law,
    LawKind,
    Measure,
    origin,
)
from bayeskit.inference.measure import Path, PointState, Target, TemperedPath

__all__ = [
    "ACCEPTED",
    "Transition",
    "chain",
    "common_measure",
    "measure_of",
    "summed_up",
    "together",
    "transition",
    "weakest",
]


class Transition:
    r"""A Markov transition :math:`K` with :math:`\gamma K = \gamma`.

    A subclass is a frozen dataclass that states ``name``, ``measure`` and ``law_kind`` and
    writes :meth:`step`. What it needs to know beside the state arrives as ``stage``: inside
    :func:`~bayeskit.inference.move` that is where on its path the population stands.

    Examples
    --------
    A move of one's own, on three places of equal probability:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> class Turn(bi.Transition):
    ...     name = "turn"
    ...     measure = bi.Measure("uniform")
    ...
    ...     def step(self, key, state, stage=None):
    ...         return (state + 1) % 3, bi.StepInfo(1.0, True, False, False)
    >>> print(Turn().explain())
    turn leaves uniform invariant
    => L3 invariant for uniform: π K = π
    >>> bi.chain(Turn(), jnp.array(0), 4)[0].tolist()
    [1, 2, 0, 1]
    """

    @property
    def name(self) -> str:
        """Short name, as printed in derivations."""
        raise NotImplementedError

    @property
    def measure(self) -> Measure:
        """What the transition leaves invariant."""
        raise NotImplementedError

    @property
    def law_kind(self) -> LawKind:
        """Reversible, invariant, consistent where a part is only that, or unknown."""
        return INVARIANT

    @property
    def derivation(self) -> tuple[str, ...]:
        """Lines that say why the law holds."""
        return (f"{self.name} leaves {self.measure} invariant",)

    @property
    def law(self) -> Law:
        """The law, with its derivation."""
        return Law(self.measure, self.law_kind, self.derivation)

    def explain(self) -> str:
        """Return the derivation of the law as text."""
        return self.law.explain()

    def init(self, key: Any, value: Any) -> Any:
        """Return the state at a value; by default they are the same."""
        return value

    def value(self, state: Any) -> Any:
        """Return the value that a state stands for, without cached or auxiliary parts."""
        return state

    def position(self, state: Any) -> Any:
        """Return the part of a state by which a population judges how a move mixes."""
        return self.value(state)

    @property
    def keeps_gradient(self) -> bool:
        """Whether states hold the gradient, as those of parts beside it may not."""
        return False

    def with_gradient(self, state: Any) -> Any:
        """Return a state of a part beside this one with the gradient that this one needs."""
        return state

    def without_gradient(self, state: Any) -> Any:
        """Return a state as parts that know no gradient have it."""
        return state

    def step(self, key: Any, state: Any, stage: Any = None) -> tuple[Any, StepInfo]:
        """Return the next state and what happened on the way."""
        raise NotImplementedError

    def __call__(self, key: Any, state: Any) -> Any:
        """Return the next state alone, as validators and other functions want it."""
        return self.step(key, state)[0]

    @functools.cached_property
    def compiled_chain(self) -> Callable:
        """The compiled chain, kept as long as the transition."""

        def run(key, value, num_steps):
            first, rest = random.split(key)
            state = self.init(first, value)

            def one(step_key, now, _):
                now, info = self.step(step_key, now)
                return now, (self.value(now), info)

            return random.scan(one, rest, state, jnp.arange(num_steps))

        return jax.jit(run, static_argnames="num_steps")

    def __repr__(self) -> str:
        return self.name


#: What an exact draw says about itself: nothing was rejected.
ACCEPTED: Any = StepInfo(1.0, True, False, False)  # type: ignore[arg-type]


def summed_up(infos: StepInfo) -> StepInfo:
    """Return one info for many along any axes: the mean acceptance, and any fault."""
    return StepInfo(
        jnp.mean(jnp.asarray(infos.acceptance)),
        *(
            jnp.any(jnp.asarray(flag))
            for flag in (infos.accepted, infos.not_finite, infos.divergent)
        ),
    )


def together(*infos: StepInfo) -> StepInfo:
    """Return the info of several steps in a row: the mean acceptance, and any fault."""
    return summed_up(jax.tree.map(lambda *x: jnp.stack(x), *map(summed_up, infos)))


def weakest(kinds: Any, otherwise: LawKind) -> LawKind:
    """Return the law of a whole: unknown or consistent if a part is, else ``otherwise``.

    Steps of a coupled pair make a step of a coupled pair.
    """
    kinds = tuple(kinds)
    return next((kind for kind in (UNKNOWN, CONSISTENT, COUPLED) if kind in kinds), otherwise)


def common_measure(parts: Any, what: str) -> Measure:
    """Return what all transitions leave invariant.

    Raises
    ------
    LawMismatch
        If two of them leave different measures invariant, with both names.
    """
    first, *others = parts
    for other in others:
        if other.measure != first.measure:
            raise LawMismatch(
                f"{what}: {first.name} leaves {first.measure} invariant, but {other.name} "
                f"leaves {origin(first.measure, other.measure)}: all must share one target"
            )
    return first.measure


def measure_of(target: Any) -> Measure:
    """Return the measure that a target, a path at its stage, or a measure stands for."""
    if isinstance(target, Measure):
        return target
    if isinstance(target, Path):
        return target.measure.at("t")
    if isinstance(getattr(target, "measure", None), Measure):
        return target.measure
    raise TypeError(
        f"a transition needs what it leaves invariant: a Target, a Path or a Measure, "
        f"got {type(target).__name__}"
    )


@dataclass(frozen=True, eq=False, repr=False)
class KernelTransition(Transition):
    """A kernel bound to a target. See :func:`transition`."""

    kernel: Kernel
    on: Target | Path
    tuning: Tuning | None = None

    @property
    def name(self):
        return self.kernel.name

    @property
    def measure(self):
        return measure_of(self.on)

    @property
    def law_kind(self):
        return self.kernel.law_kind

    def _density(self, stage):
        return self.on.density() if isinstance(self.on, Target) else self.on.at(stage)

    def _tuning(self, position, stage):
        tuning = self.tuning if self.tuning is not None else getattr(stage, "tuning", None)
        if tuning is not None:
            return tuning
        return self.kernel.default_tuning(max(position.size, 1), jnp.result_type(float))

    def init(self, key, value):
        if isinstance(self.on, TemperedPath):
            return PointState(value, self.on.target.components(value))
        return self.kernel.init(value, self._density(None))

    def value(self, state):
        return state.position

    @property
    def keeps_gradient(self):
        return self.kernel.needs_gradient and not isinstance(self.on, Path)

    def with_gradient(self, state):
        return self.kernel.refresh(state, self._density(None))

    def without_gradient(self, state):
        return state._replace(gradient=())

    def step(self, key, state, stage=None):
        density, tuning = self._density(stage), self._tuning(state.position, stage)
        if not isinstance(self.on, Path):
            return self.kernel.step(key, state, density, tuning)
        # On a path a state has no gradient: it would belong to another stage.
        if self.kernel.needs_gradient:
            state = self.kernel.refresh(state, density)
        state, info = self.kernel.step(key, state, density, tuning)
        return state._replace(gradient=()), info


@dataclass(frozen=True, eq=False, repr=False)
class FunctionTransition(Transition):
    """A function with a declared law. See :func:`transition`."""

    function: Callable
    on: Measure
    declared: LawKind
    title: str

    @property
    def name(self):
        return self.title

    @property
    def measure(self):
        return self.on

    @property
    def law_kind(self):
        return self.declared

    def step(self, key, state, stage=None):
        return self.function(key, state), ACCEPTED


def transition(
    step: Kernel | Callable,
    on: Any = None,
    *,
    tuning: Tuning | None = None,
    reversible: bool = False,
    name: str = "",
) -> Transition:
    """Bind a kernel to its target, or declare what a function of one's own leaves invariant.

    Parameters
    ----------
    step : Kernel, or callable (key, state) -> state
    on : Target, Path or Measure
        What it leaves invariant. Without it a function claims nothing: its law is unknown.
    tuning : Tuning, optional
        Parameters of a kernel. Default: those of the stage on a path, else those for a
        standardised target.
    reversible : bool
        Whether a function is reversible, beyond leaving the measure invariant.
    name : str
        How a function is printed.

    Returns
    -------
    Transition

    Raises
    ------
    TypeError
        For a kernel without target, a step that cannot be called, or a target of another type.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: -0.5 * jnp.sum((x - 1) ** 2))
    >>> walk = bi.transition(bi.RandomWalk(), target)
    >>> print(walk.explain())
    random-walk Metropolis leaves π invariant
    => L3r reversible for π: π(dx) K(x, dx') is symmetric in x and x'
    >>> draws, info = bi.chain(walk, jnp.zeros(2), 100, key=0)
    >>> draws.shape
    (100, 2)
    """
    if isinstance(step, Kernel):
        if not isinstance(on, Target | Path):
            raise TypeError(
                f"the kernel {step.name} needs on=, the Target or Path that it is to "
                f"leave invariant, got {type(on).__name__}"
            )
        return KernelTransition(step, on, tuning)
    if not callable(step):
        raise TypeError(f"step must be a Kernel or a function (key, state), got {step!r}")
    title = name or getattr(step, "__name__", "step")
    if on is None:
        return FunctionTransition(step, Measure("an undeclared measure"), UNKNOWN, title)
    kind = REVERSIBLE if reversible else INVARIANT
    return FunctionTransition(step, measure_of(on), kind, title)


def chain(moves: Transition, value: Any, num_steps: int, key: Any = 0) -> tuple[Any, StepInfo]:
    """Run a transition again and again, as one compiled program.

    Parameters
    ----------
    moves : Transition
    value : pytree
        Where the chain starts.
    num_steps : int
    key : int or JAX key

    Returns
    -------
    values : pytree with leading axis num_steps
        After each step; the start is left out.
    info : StepInfo of arrays (num_steps,)

    Raises
    ------
    ValueError
        If ``num_steps`` is not at least 1.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> turn = bi.transition(lambda key, x: (x + 1) % 3, bi.Measure("uniform"), name="turn")
    >>> values, info = bi.chain(turn, jnp.array(0), num_steps=4)
    >>> values.tolist(), info.acceptance.tolist()
    ([1, 2, 0, 1], [1.0, 1.0, 1.0, 1.0])
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps!r}")
    _, kept = moves.compiled_chain(accel.as_key(key), value, num_steps=num_steps)
    return kept
