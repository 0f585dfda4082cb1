"""Laws: what a block preserves, and how the law of a whole follows from its parts.

A law is a statement about a *measure*: the population that a block returns stands for it, or
the kernel leaves it invariant. A block maps laws to laws (its *arrow*); ``a >> b`` composes
the arrows, so a mismatch is found on the line that builds it, before anything runs. What an
arrow cannot see is whether a declared function really does what it declares: that is what
:func:`bayeskit.validate` is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bayeskit.errors import LawMismatch

__all__ = [
    "BIJECTION",
    "CONDITIONAL_RESAMPLING",
    "CONSISTENT",
    "COUPLED",
    "DRAWS",
    "INVARIANT",
    "INVOLUTION",
    "PROPERLY_WEIGHTED",
    "REVERSIBLE",
    "SAME_LAW",
    "SWAPS",
    "UNBIASED_ESTIMATE",
    "UNBIASED_MEAN",
    "UNBIASED_RESAMPLING",
    "UNKNOWN",
    "Law",
    "LawKind",
    "Measure",
    "Tagged",
    "factor_arrow",
    "origin",
    "require",
]


class LawKind(NamedTuple):
    """A kind of law: its identifier, its name and the statement it makes about a measure γ.

    Parameters
    ----------
    id : str
        Such as ``"L2"``.
    name : str
    statement : str
        In words and symbols.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> kind = bi.RandomWalk().law_kind
    >>> print(kind)
    L3r reversible
    >>> kind.statement
    "π(dx) K(x, dx') is symmetric in x and x'"
    """

    id: str
    name: str
    statement: str

    def __str__(self) -> str:
        return f"{self.id} {self.name}"


DRAWS = LawKind("L1", "draws", "E f(x) = π(f)")
PROPERLY_WEIGHTED = LawKind(
    "L2",
    "properly weighted",
    "E[exp(log_evidence) Σ W_i f(x_i)] = γ(f) for every bounded f",
)
INVARIANT = LawKind("L3", "invariant", "π K = π")
REVERSIBLE = LawKind("L3r", "reversible", "π(dx) K(x, dx') is symmetric in x and x'")
COUPLED = LawKind(
    "L3c",
    "coupled",
    "each of the two moves by K, πK = π, and once equal they stay equal",
)
UNBIASED_RESAMPLING = LawKind(
    "L4", "unbiased resampling", "E[offspring of i | W] = num W_i, copies weigh 1/num each"
)
UNBIASED_ESTIMATE = LawKind("L7", "unbiased estimate", "estimate ≥ 0 and its mean is γ(1)")
UNBIASED_MEAN = LawKind("L7m", "unbiased mean", "the mean of the estimate of h is π(h)")
CONDITIONAL_RESAMPLING = LawKind(
    "L4c",
    "conditional resampling",
    "the law of the ancestors given that one slot has a given ancestor, slots shuffled",
)
INVOLUTION = LawKind("L8", "involution", "φ(φ(z)) = z, and log |det Dφ(z)| is as declared")
BIJECTION = LawKind(
    "L9", "bijection", "inverse(forward(u)) = u, and log |det Dx(u)| is as declared"
)
SWAPS = LawKind("L11", "swaps", "the product of the targets is invariant")
SAME_LAW = LawKind("L13", "same law", "both draw from one distribution")
CONSISTENT = LawKind(
    "L10",
    "consistent",
    "the error vanishes as the number of particles grows; exact once adaptation is frozen",
)
UNKNOWN = LawKind("L0", "unknown", "nothing is claimed: a part declares no law")


@dataclass(frozen=True)
class Measure:
    """What a population stands for, identified by its structure and never by its value.

    Parameters
    ----------
    name : str
        How it is printed.
    time : str
        Position on a path of measures: ``"0"``, ``"t-1"``, ``"t"`` or ``"T"``; empty for a
        measure that belongs to no path.
    owner : object
        The target or path it belongs to. Two measures with the same name and different
        owners differ.
    factors : tuple of (str, int)
        Functions that were multiplied on without a declaration, by name and identity.
    parts : tuple of Measure
        What a product measure is the product of.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> def likelihood(stage, x):
    ...     return -0.5 * x**2
    >>> before = bi.Measure("γ", "t-1")
    >>> str(before.at("t")), str(before.times(likelihood))
    ('γ[t]', 'γ[t-1]·likelihood')
    >>> str(bi.Measure.product([bi.Measure("p"), bi.Measure("q")]))
    'p ⊗ q'
    >>> bi.Measure("π", owner="this target") == bi.Measure("π", owner="that target")
    False
    """

    name: str
    time: str = ""
    owner: Any = None
    factors: tuple[tuple[str, int], ...] = ()
    parts: tuple[Measure, ...] = ()

    @classmethod
    def product(cls, parts: Sequence[Measure]) -> Measure:
        """Return the product of measures, the law of independent parts."""
        names = [str(part) for part in parts]
        if len(names) > 3:
            names = [names[0], "...", names[-1]]
        return cls(" ⊗ ".join(names), parts=tuple(parts))

    def at(self, time: str) -> Measure:
        """Return the measure at another position of the same path."""
        return Measure(self.name, time, self.owner)

    def times(self, function: Callable) -> Measure:
        """Return this measure multiplied by an undeclared function."""
        factor = (getattr(function, "__name__", "g"), id(function))
        return replace(self, factors=(*self.factors, factor))

    def __str__(self) -> str:
        position = f"[{self.time}]" if self.time else ""
        return self.name + position + "".join(f"·{name}" for name, _ in self.factors)

    # Owners are compared as the objects they are: a target may hold arrays.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Measure):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple:
        return self.name, self.time, id(self.owner), self.factors, self.parts


@dataclass(frozen=True)
class Tagged:
    """A function with a declaration: it takes the measure ``source`` to ``target``.

    Parameters
    ----------
    function : callable
    source, target : Measure
        What it takes, and what it makes of it.
    name : str

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> prior, posterior = bi.Measure("prior"), bi.Measure("posterior")
    >>> likelihood = bi.Tagged(lambda stage, x: -0.5 * x**2, prior, posterior, "likelihood")
    >>> draws = bi.spawn(lambda key: bi.random.normal(key), 100, prior)
    >>> print((draws >> bi.weigh(likelihood)).explain())
    spawn 100 independent draws                                stands for prior
    weigh by likelihood                                        stands for posterior
    => L2 properly weighted for posterior: ...
    """

    function: Callable
    source: Measure
    target: Measure
    name: str

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Law(NamedTuple):
    """A kind of law, the measure it speaks of, and the derivation so far.

    Parameters
    ----------
    measure : Measure
        What it speaks of.
    kind : LawKind
    derivation : tuple of str
        Lines of the proof by composition so far.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> law = bi.Law(bi.Measure("prior")).then(bi.Measure("posterior"), "weigh by likelihood")
    >>> print(law.explain())
    weigh by likelihood                                        stands for posterior
    => L2 properly weighted for posterior: E[exp(log_evidence) Σ W_i f(x_i)] = γ(f) for ...
    """

    measure: Measure
    kind: LawKind = PROPERLY_WEIGHTED
    derivation: tuple[str, ...] = ()

    def then(self, measure: Measure, line: str, kind: LawKind | None = None) -> Law:
        """Return the law after one more block; once a part adapts, the whole is L10."""
        if UNKNOWN in (kind, self.kind):
            kind = UNKNOWN
        elif CONSISTENT in (kind, self.kind):
            kind = CONSISTENT
        line = f"{line:<58} stands for {measure}"
        return Law(measure, kind or self.kind, (*self.derivation, line))

    def explain(self) -> str:
        """Return the derivation as text."""
        conclusion = f"=> {self.kind} for {self.measure}: {self.kind.statement}"
        return "\n".join((*self.derivation, conclusion))


def factor_arrow(function: Callable | Tagged, verb: str) -> Callable[[Law], Law]:
    """Return the arrow of a block that multiplies a function onto the measure.

    A declared function must start from the measure at hand. An undeclared one adds itself as
    a named factor, so that no claim is made which nobody stated.
    """

    def arrow(law: Law) -> Law:
        if not isinstance(function, Tagged):
            line = f"{verb} {getattr(function, '__name__', 'g')}"
            return law.then(law.measure.times(function), line)
        require(function.source, law.measure, f"{verb}: {function.name} starts from")
        return law.then(function.target, f"{verb} {function.name}")

    return arrow


def origin(declared: Measure, actual: Measure) -> str:
    """Return the name of the measure at hand, and why it differs if the names are equal."""
    if str(declared) != str(actual):
        return str(actual)
    return f"{actual} of another target or path: build all parts from one object"


def require(declared: Measure, actual: Measure, what: str) -> None:
    """Raise LawMismatch unless the declared measure is the one at hand."""
    if declared != actual:
        raise LawMismatch(
            f"{what} {declared}, but the population stands for {origin(declared, actual)}"
        )
