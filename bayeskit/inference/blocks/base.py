"""What a block is, how two compose, and how one is run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.errors import StalledError
from bayeskit.inference import random
from bayeskit.inference.collapse import check_infinite
from bayeskit.inference.law import UNKNOWN, Law, Measure, Tagged

__all__ = ["Block", "Chain", "Custom", "custom", "leaves", "path_of", "run", "set_law"]


@dataclass(frozen=True, eq=False, repr=False)
class Block:
    """A step of an algorithm that knows its law.

    ``run(key, population) -> (population, info)`` is a pure function; ``info`` is a dict of
    arrays that describe the step. ``arrow(law) -> law`` derives the law of the result or
    raises :class:`~bayeskit.errors.LawMismatch`. ``law`` is the derived law of a block that
    starts from nothing, else None.

    Examples
    --------
    A block of one's own, which knows that a normal is symmetric:

    >>> from bayeskit import inference as bi
    >>> class Mirror(bi.Block):
    ...     name = "mirror"
    ...
    ...     def run(self, key, population):
    ...         return population._replace(particles=-population.particles), {}
    ...
    ...     def arrow(self, law):
    ...         return law.then(law.measure, self.name)
    >>> draws = bi.spawn(lambda key: bi.random.normal(key), 100, bi.Measure("N(0, 1)"))
    >>> print((draws >> Mirror()).explain())
    spawn 100 independent draws                                stands for N(0, 1)
    mirror                                                     stands for N(0, 1)
    => L2 properly weighted for N(0, 1): ...
    """

    law: Law | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """Short name, as printed in derivations."""
        raise NotImplementedError(f"{type(self).__name__} must define name, for derivations")

    @property
    def parts(self) -> tuple[Block, ...]:
        """The blocks that this one is made of."""
        return ()

    @property
    def expects(self) -> Measure | None:
        """The measure that the population must stand for; None if any will do."""
        return next((part.expects for part in self.parts if part.expects), None)

    def run(self, key: Any, population: Any = None) -> tuple[Any, dict[str, jax.Array]]:
        """Return the next population and what there is to say about the step."""
        raise NotImplementedError(
            f"{type(self).__name__} must define run(key, population), which returns the next "
            "population and a dict of what there is to say"
        )

    def arrow(self, law: Law | None) -> Law:
        """Return the law of the result for a population with the given law."""
        raise NotImplementedError(
            f"{type(self).__name__} must define arrow(law), which returns the law of what "
            "comes out, such as law.then(law.measure, self.name)"
        )

    @functools.cached_property
    def compiled(self) -> Callable:
        """The compiled :meth:`run`, kept as long as the block."""
        return jax.jit(self.run)

    def __rshift__(self, other: Block) -> Block:
        if not isinstance(other, Block):
            return NotImplemented
        return Chain(self, other)

    def explain(self) -> str:
        """Return the derivation of the law as text.

        For a block that still waits for a population the derivation starts from a measure
        called γ.
        """
        if self.law is not None:
            return self.law.explain()
        start = self.expects or Measure("γ")
        derived = self.arrow(Law(start))
        return f"given a population that stands for {start}:\n" + derived.explain()

    def __repr__(self) -> str:
        return self.name


def leaves(block: Block) -> Iterator[Block]:
    """Yield the blocks that a block is made of and that have no parts themselves."""
    if not block.parts:
        yield block
    for part in block.parts:
        yield from leaves(part)


def path_of(block: Block) -> Measure | None:
    """Return the measure of the path that the declared functions of a block belong to."""
    for leaf in leaves(block):
        function = getattr(leaf, "log_g", None)
        if isinstance(function, Tagged) and function.target.time:
            return function.target
    return None


def require_complete(block: Block, population: Any) -> None:
    """Raise StalledError if the loop that a block ends with stopped short of its path.

    A population without mass is no such case: its evidence of zero says so.
    """
    while isinstance(block, Chain):
        block = block.second
    shortfall = getattr(getattr(getattr(block, "path", None), "owner", None), "shortfall", None)
    if shortfall is None or population.log_evidence == -jnp.inf:
        return
    found = shortfall(population.stage)
    if found is not None:
        raise StalledError(found)


def set_law(block: Block, law: Law | None) -> None:
    """Store the law that was derived while a frozen block was built."""
    object.__setattr__(block, "law", law)


@dataclass(frozen=True, eq=False, repr=False)
class Chain(Block):
    """One block after another; their arrows compose."""

    first: Block
    second: Block

    def __post_init__(self):
        if self.first.law is not None:
            set_law(self, self.second.arrow(self.first.law))

    @property
    def name(self):
        return f"{self.first.name} >> {self.second.name}"

    @property
    def parts(self):
        return (self.first, self.second)

    def run(self, key, population=None):
        first_key, second_key = random.split(key)
        population, info = self.first.run(first_key, population)
        population, more = self.second.run(second_key, population)
        for name, value in more.items():
            number = 2
            unique = name
            while unique in info:
                unique, number = f"{name}_{number}", number + 1
            info = {**info, unique: value}
        return population, info

    def arrow(self, law):
        return self.second.arrow(self.first.arrow(law))


@dataclass(frozen=True, eq=False, repr=False)
class Custom(Block):
    """A user's step without a declared law. See :func:`custom`."""

    function: Callable
    title: str

    @property
    def name(self):
        return self.title

    def run(self, key, population=None):
        return self.function(key, population), {}

    def arrow(self, law):
        return law.then(law.measure, self.name, UNKNOWN)


def custom(function: Callable, name: str = "") -> Block:
    """Wrap ``function(key, population) -> population``; the law of the whole is unknown.

    Parameters
    ----------
    function : callable (key, population) -> population
    name : str
        For the derivation. Default: that of the function.

    Returns
    -------
    Block
        Of law L0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> def clipped(key, population):
    ...     return population._replace(particles=jnp.clip(population.particles, -2, 2))
    >>> draws = bi.spawn(lambda key: bi.random.normal(key), 100, bi.Measure("N(0, 1)"))
    >>> print((draws >> bi.custom(clipped)).explain())
    spawn 100 independent draws                                stands for N(0, 1)
    clipped                                                    stands for N(0, 1)
    => L0 unknown for N(0, 1): nothing is claimed: a part declares no law
    """
    return Custom(function, name or getattr(function, "__name__", "custom"))


def run(block: Block, key: Any, *, with_info: bool = False) -> Any:
    """Run a block that starts from nothing, compiled as one program.

    Parameters
    ----------
    block : Block
        Begins with :func:`spawn`.
    key : int or JAX key
    with_info : bool
        Return ``(population, info)`` instead of the population.

    Returns
    -------
    Population, or (Population, info)

    Raises
    ------
    TypeError
        If the block waits for a population.
    StalledError
        If a loop along a path ended before the end of the path.
    InvalidWeightsError
        If a potential was +inf.

    Examples
    --------
    A potential that is the same everywhere is the evidence, and leaves all weights equal:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> draws = bi.spawn(lambda key: bi.random.normal(key), 4)
    >>> block = draws >> bi.weigh(lambda stage, x: jnp.log(0.25))
    >>> population, info = bi.run(block, key=0, with_info=True)
    >>> round(float(jnp.exp(population.log_evidence)), 4)
    0.25
    >>> round(float(info["effective_sample_size"]), 4)
    4.0
    """
    if block.law is None:
        raise TypeError(f"{block.name} waits for a population: begin with spawn(...)")
    population, info = block.compiled(accel.as_key(key))
    if not isinstance(population.log_evidence, jax.core.Tracer):
        check_infinite(population, info)
        require_complete(block, population)
    return (population, info) if with_info else population
