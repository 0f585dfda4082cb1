"""Exact mode: walk every path of a block and add up the probabilities.

On a finite space a law is an identity between finite sums. There is no sampling error, hence
no false alarm and full power: a correct block agrees to rounding, a wrong one does not.

Two ways to enumerate:

- :func:`enumerate_paths` lays out all paths of one function as one compiled program;
- :func:`push` takes a composed block apart and merges equal states after each leaf, so that
  the number of rounds does not multiply the number of paths.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import LawMismatch, TooManyPathsError
from bayeskit.inference import blocks
from bayeskit.inference.keys import EnumerationKey, Tape
from bayeskit.inference.law import UNKNOWN
from bayeskit.inference.population import Population

__all__ = [
    "Atoms",
    "Enumeration",
    "Invariance",
    "discrepancy",
    "enumerate_paths",
    "invariance_discrepancy",
    "merge",
    "push",
    "weighting_discrepancy",
]

MAX_PATHS = 2 * 10**7
# Chunks of few fixed sizes, so that one program is compiled for each size at most.
_CHUNKS = (256, 4096, 2**15)
# States are equal if they agree to this many decimals; comparisons round one digit more.
_DECIMALS = 11


class Atoms(NamedTuple):
    """A finite measure: states, with a leading axis of atoms, and their masses.

    Parameters
    ----------
    state : pytree, each leaf (num_atoms, ...)
    mass : (num_atoms,) array, not negative
        Need not add up to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeskit.validation import Atoms
    >>> atoms = Atoms(np.arange(3), np.array([0.2, 0.3, 0.5]))
    >>> float(atoms.mass.sum())
    1.0
    """

    state: Any
    mass: np.ndarray


class Enumeration:
    """Options and counts of one exact check.

    Parameters
    ----------
    max_paths : int
        Refuse to walk more paths than that at once.
    quadrature_nodes : int
        Nodes that stand for a normal draw; 0 refuses normal draws.

    Attributes
    ----------
    num_paths : int
        Paths that were walked.
    max_atoms : int
        The most states that came out of one function.
    branch_mass : dict of lists of float
        Masses that went into each branch, by its name.

    Examples
    --------
    Two tosses of a coin have four outcomes, with three numbers of heads:

    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, Enumeration, enumerate_paths
    >>> def heads(key, before):
    ...     return before + sum(random.categorical(k, jnp.zeros(2)) for k in random.split(key))
    >>> counts = Enumeration(max_paths=100)
    >>> _ = enumerate_paths(heads, Atoms(np.zeros(1), np.ones(1)), counts)
    >>> counts.num_paths, counts.max_atoms
    (4, 3)
    """

    def __init__(self, max_paths: int = MAX_PATHS, quadrature_nodes: int = 0):
        self.max_paths = max_paths
        self.quadrature_nodes = quadrature_nodes
        self.num_paths = 0
        self.max_atoms = 0
        self.branch_mass: dict[str, list[float]] = {}


def _draw_sizes(function: Callable, state: Any, nodes: int) -> list[int]:
    tape = Tape(None, nodes)
    jax.eval_shape(lambda s: function(EnumerationKey(tape), s), state)
    return tape.sizes


def _replay(function: Callable, nodes: int, digits: jax.Array, states: Any) -> Any:
    def one(path, state):
        tape = Tape(path, nodes)
        result = function(EnumerationKey(tape), state)
        return result, tape.log_probability

    return jax.vmap(one)(digits, states)


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable, nodes: int) -> Callable:
    """Return the compiled replay of a function, the same one for the same function."""
    return quick_jit(functools.partial(_replay, function, nodes), optimised=False)


def _num_fitting(sizes: list[int], num_states: int, max_paths: int) -> int:
    """Return how many of the draws could be enumerated."""
    totals = itertools.accumulate(sizes, operator.mul, initial=num_states)
    return sum(total <= max_paths for total in totals) - 1


def _several(sizes: list[int]) -> str:
    """Write numbers of outcomes, in runs of equal ones."""
    runs = [(size, len(list(group))) for size, group in itertools.groupby(sizes)]
    words = [str(size) if num == 1 else f"{num} × {size}" for size, num in runs[:6]]
    return ", ".join(words) + (", ..." if len(runs) > 6 else "")


def enumerate_paths(
    function: Callable,
    atoms: Atoms,
    enumeration: Enumeration | None = None,
    *,
    merge_results: bool = True,
    program: Callable | None = None,
) -> Atoms:
    """Return the exact law of ``function(key, state)`` for a state drawn from ``atoms``.

    Parameters
    ----------
    function : callable (key, state) -> result
        Draws through :mod:`bayeskit.inference.random` only.
    atoms : Atoms
        Law of the state.
    enumeration : Enumeration, optional
    merge_results : bool
        Add up equal results.
    program : callable, optional
        A compiled replay of the same function, to be used again.

    Returns
    -------
    Atoms
        States that can come out, with their masses.

    Raises
    ------
    TooManyPathsError
        If there are more than ``max_paths`` paths.
    FloatingPointError
        If a path has probability NaN.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, enumerate_paths
    >>> def heads(key, before):
    ...     return before + sum(random.categorical(k, jnp.zeros(2)) for k in random.split(key))
    >>> law = enumerate_paths(heads, Atoms(np.zeros(1), np.ones(1)))
    >>> sorted(zip(law.state.tolist(), law.mass.tolist()))
    [(0.0, 0.25), (1.0, 0.5), (2.0, 0.25)]
    """
    enumeration = enumeration or Enumeration()
    nodes = enumeration.quadrature_nodes
    with jax.enable_x64(True):
        first = jax.tree.map(lambda x: x[0], atoms.state)
        sizes = _draw_sizes(function, first, nodes)
        num_each = math.prod(sizes)
        total = len(atoms.mass) * num_each
        if total > enumeration.max_paths:
            # A number of paths may be too large for a float.
            count = f"{total:.3g}" if total < 10**300 else f"10^{math.log10(total):.0f}"
            fitting = _num_fitting(sizes, len(atoms.mass), enumeration.max_paths)
            raise TooManyPathsError(
                f"{count} paths exceed max_paths={enumeration.max_paths:.3g}: "
                f"{len(atoms.mass)} states times draws with {_several(sizes)} outcomes; the "
                f"first {fitting} of {len(sizes)} draws would fit. Take fewer particles, steps "
                "or states in that proportion, or raise max_paths="
            )
        # A path is one integer: the atom, then the digits of its draws in mixed radix.
        radix = np.array([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], np.int64)
        outcomes = np.array(sizes, np.int64)
        program = program or _compiled(function, nodes)
        size = next(c for c in _CHUNKS if total <= c or c == _CHUNKS[-1])
        pieces = []
        for start in range(0, total, size):
            numbers = np.arange(start, start + size)
            path = np.minimum(numbers, total - 1)
            atom, rest = path // num_each, path % num_each
            digits = rest[:, None] // radix % outcomes
            states = jax.tree.map(lambda x, a=atom: np.asarray(x)[a], atoms.state)
            result, log_probability = program(digits, states)
            probability = np.exp(np.asarray(log_probability))
            mass = np.where(numbers < total, atoms.mass[atom] * probability, 0.0)
            if np.isnan(mass).any():
                raise FloatingPointError(
                    "a path has probability NaN: the block computed a NaN log-probability for "
                    f"one of its draws (first at path {int(path[np.isnan(mass)][0])})"
                )
            alive = _with_mass(mass)
            piece = Atoms(
                jax.tree.map(lambda x, m=alive: np.asarray(x)[m], result), mass[alive]
            )
            pieces.append(merge(piece) if merge_results and len(piece.mass) else piece)
        enumeration.num_paths += total
        joined = Atoms(
            jax.tree.map(lambda *x: np.concatenate(x), *[p.state for p in pieces]),
            np.concatenate([p.mass for p in pieces]),
        )
        if merge_results and len(pieces) > 1:
            joined = merge(joined)
        enumeration.max_atoms = max(enumeration.max_atoms, len(joined.mass))
        return joined


def _with_mass(mass: np.ndarray) -> np.ndarray:
    """Return where there is mass; where there is none at all, the first place stands for it."""
    alive = mass != 0
    alive[0] |= not alive.any()
    return alive


def _rows(state: Any, num: int, decimals: int | None = _DECIMALS) -> np.ndarray:
    """Return states as rows of rounded numbers, or of the numbers as they are."""
    columns = [np.asarray(leaf, np.float64).reshape(num, -1) for leaf in jax.tree.leaves(state)]
    table = np.concatenate([*columns, np.zeros((num, 1))], axis=1)
    rounded = table if decimals is None else np.round(table, decimals)
    return np.ascontiguousarray(rounded + 0.0)


def _first_and_group(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    view = rows.view([("", f"V{rows.shape[1] * 8}")]).ravel()
    _, first, group = np.unique(view, return_index=True, return_inverse=True)
    return first, group.ravel()


def indistinguishable(atoms: Atoms) -> tuple[int, int] | None:
    """Return two states that differ and that comparisons take for equal, if there are any."""
    num = len(atoms.mass)
    raw = _rows(atoms.state, num, None)
    first, group = _first_and_group(_rows(atoms.state, num, _DECIMALS - 1))
    other = raw[first[group]]
    differs = np.any((raw != other) & ~(np.isnan(raw) & np.isnan(other)), axis=1)
    if not differs.any():
        return None
    place = int(np.argmax(differs))
    return int(first[group[place]]), place


def merge(atoms: Atoms) -> Atoms:
    """Return the same measure with equal states added up."""
    first, group = _first_and_group(_rows(atoms.state, len(atoms.mass)))
    state = jax.tree.map(lambda x: np.asarray(x)[first], atoms.state)
    return Atoms(state, np.bincount(group, atoms.mass, minlength=len(first)))


# ---------------------------------------------------------------- block by block


def _program(
    block: Any, name: Any, function: Callable, nodes: int
) -> tuple[Callable, Callable]:
    # Kept on the block, so that they live as long as it does.
    programs = vars(block).setdefault("_enumeration_programs", {})
    if (name, nodes) not in programs:
        program = functools.partial(_replay, function, nodes)
        programs[name, nodes] = (
            function,
            quick_jit(program, optimised=False),
        )
    return programs[name, nodes]


def _lump(atoms: Atoms) -> Atoms:
    """Move the evidence of each atom into its mass.

    Allowed for every statement that is linear in exp(log_evidence), as law L2 is. It keeps
    the number of atoms bounded however many rounds there are.
    """
    if not isinstance(atoms.state, Population):
        return merge(atoms)
    population = atoms.state
    evidence = np.asarray(population.log_evidence) + np.asarray(
        population.log_evidence_remainder
    )
    mass = atoms.mass * np.exp(evidence)
    zero = np.zeros_like(evidence)
    population = population._replace(log_evidence=zero, log_evidence_remainder=zero)
    alive = _with_mass(mass)
    state = jax.tree.map(lambda x: np.asarray(x)[alive], population)
    return merge(Atoms(state, mass[alive]))


@functools.singledispatch
def push(block: Any, atoms: Atoms, enumeration: Enumeration) -> Atoms:
    """Return the exact law after a block, with the evidence moved into the masses.

    Parameters
    ----------
    block : Block
    atoms : Atoms of populations; for a block that starts from nothing, one empty atom
    enumeration : Enumeration
    """

    def leaf(key, population):
        return block.run(key, population)[0]

    function, program = _program(block, "run", leaf, enumeration.quadrature_nodes)
    result = enumerate_paths(function, atoms, enumeration, merge_results=False, program=program)
    return _lump(result)


def _by_parts(kind: Any) -> Callable:
    """Register how a kind of block is pushed part by part.

    A subclass with a ``run`` of its own is enumerated as it runs, not as its parent would.
    """

    def register(function):
        @push.register(kind)
        def _(block, atoms, enumeration):
            if type(block).run is not kind.run:
                return push.dispatch(object)(block, atoms, enumeration)
            return function(block, atoms, enumeration)

        return function

    return register


@_by_parts(blocks.Chain)
def _(block, atoms, enumeration):
    return push(block.second, push(block.first, atoms, enumeration), enumeration)


def _on_host(function: Callable, atoms: Atoms) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(function)(jax.tree.map(jnp.asarray, atoms.state)))


def _where(atoms: Atoms, chosen: np.ndarray) -> Atoms:
    state = jax.tree.map(lambda x: np.asarray(x)[chosen], atoms.state)
    return Atoms(state, atoms.mass[chosen])


def _joined(pieces: list[Atoms]) -> Atoms:
    pieces = [p for p in pieces if len(p.mass)]
    state = jax.tree.map(lambda *x: np.concatenate(x), *[p.state for p in pieces])
    return merge(Atoms(state, np.concatenate([p.mass for p in pieces])))


def _split_by(
    name: str, chosen: np.ndarray, atoms: Atoms, enumeration: Enumeration
) -> tuple[Atoms, Atoms]:
    """Split atoms by a condition and remember the mass of each side."""
    masses = enumeration.branch_mass.setdefault(name, [0.0, 0.0])
    masses[0] += float(atoms.mass[chosen].sum())
    masses[1] += float(atoms.mass[~chosen].sum())
    return _where(atoms, chosen), _where(atoms, ~chosen)


@_by_parts(blocks.Resampling)
def _(block, atoms, enumeration):
    if block.ess_below is None:
        return push.dispatch(object)(block, atoms, enumeration)
    needed = _on_host(block.is_needed, atoms)
    yes, no = _split_by(block.name, needed, atoms, enumeration)
    if not len(yes.mass):
        return no
    return _joined([push(block.always, yes, enumeration), no])


@_by_parts(blocks.When)
def _(block, atoms, enumeration):
    yes, no = _split_by(block.name, _on_host(block.predicate, atoms), atoms, enumeration)
    if not len(yes.mass):
        return no
    return _joined([push(block.body, yes, enumeration), no])


@_by_parts(blocks.Scan)
def _(block, atoms, enumeration):
    for time in block.times:
        stage = np.full(len(atoms.mass), time, np.int32)
        atoms = Atoms(atoms.state._replace(stage=stage), atoms.mass)
        atoms = push(block.body, atoms, enumeration)
    return atoms


@_by_parts(blocks.Until)
def _(block, atoms, enumeration):
    finished = []
    for number in range(block.max_rounds + 1):
        done = _on_host(lambda p: block.condition(p.stage), atoms)
        finished.append(_where(atoms, done))
        atoms = _where(atoms, ~done)
        if not len(atoms.mass):
            return _joined(finished)
        if number < block.max_rounds:
            atoms = push(block.body, atoms, enumeration)
    raise TooManyPathsError(
        f"{block.name}: {float(atoms.mass.sum()):.2g} of the mass is not done after "
        f"{block.max_rounds} rounds"
    )


@_by_parts(blocks.Move)
def _(block, atoms, enumeration):
    """Move one particle at a time, merging in between: lanes do not touch one another.

    The acceptance and the correlation that a move notes in its stage are left out, as they
    would keep states apart. Where something may be tuned by them, the move is one leaf.
    """
    if block.repeats is None:
        repeats = np.broadcast_to(getattr(atoms.state.stage, "repeats", 1), len(atoms.mass))
        groups = {int(num): _where(atoms, repeats == num) for num in np.unique(repeats)}
        return _joined(
            [push(_with_repeats(block, num), g, enumeration) for num, g in groups.items()]
        )
    if block.keep == "all" or getattr(atoms.state.stage, "tuning", None) is not None:
        return push.dispatch(object)(block, atoms, enumeration)
    return _moved(block, block.repeats, atoms, enumeration)


def _with_repeats(block: Any, repeats: int) -> Any:
    """Return a move of a fixed number of kernel steps, the same one for the same number."""
    # Kept on the block, as programs are.
    fixed = vars(block).setdefault("_enumeration_repeats", {})
    if repeats not in fixed:
        fixed[repeats] = dataclasses.replace(block, repeats=repeats)
    return fixed[repeats]


def _moved(block: Any, repeats: int, atoms: Atoms, enumeration: Enumeration) -> Atoms:
    template = jax.tree.map(lambda x: np.zeros_like(x[0, 0]), atoms.state.particles)

    def refresh(key, population):
        states = jax.vmap(lambda x: block.refreshed(x, population.stage))
        return population._replace(particles=states(population.particles))

    def move_one(key, carried):
        population, lane, number = carried
        state = jax.tree.map(lambda x: x[lane], population.particles)
        state, _ = block.transition(key, state, population.stage, number)
        moved = jax.tree.map(
            lambda all_, one: all_.at[lane].set(one), population.particles, state
        )
        return population._replace(particles=moved)

    def restore(key, population):
        states = jax.vmap(lambda state: block.restored(state, template))
        return population._replace(particles=states(population.particles))

    def pushed(function, state):
        nodes = enumeration.quadrature_nodes
        function, program = _program(block, function.__name__, function, nodes)
        start = Atoms(state, atoms.mass)
        return _lump(
            enumerate_paths(function, start, enumeration, merge_results=False, program=program)
        )

    # The kernel keeps its cached values from step to step, as it does when it runs.
    atoms = pushed(refresh, atoms.state)
    num_particles = atoms.state.log_weights.shape[1]
    # The lane and the number of the step are data: one program serves them all.
    for number in range(block.steps * repeats):
        for lane in range(num_particles):
            numbers = (np.full(len(atoms.mass), i, np.int32) for i in (lane, number))
            atoms = pushed(move_one, (atoms.state, *numbers))
    return pushed(restore, atoms.state)


# ---------------------------------------------------------------- the identities


def discrepancy(states: Any, mass: np.ndarray, expected: Atoms) -> float:
    """Return the largest difference of two measures over all states, relative to the mass.

    Comparing the mass of every single state compares the integrals of all functions.
    """
    rows = np.concatenate(
        [
            _rows(states, len(mass), _DECIMALS - 1),
            _rows(expected.state, len(expected.mass), _DECIMALS - 1),
        ]
    )
    first, group = _first_and_group(rows)
    signed = np.concatenate([mass, -expected.mass])
    difference = np.bincount(group, signed, minlength=len(first))
    return float(np.abs(difference).max() / expected.mass.sum())


def weighting_discrepancy(
    block: Any,
    expected: Atoms,
    enumeration: Enumeration | None = None,
    observed: Callable[[Any], Any] = lambda particles: particles,
) -> float:
    r"""Check law L2 of a block that starts from nothing; 0 means that it holds.

    Compares :math:`E[e^{\text{log\_evidence}} \sum_i W_i 1\{x_i = x\}]` with
    :math:`\gamma(\{x\})` for every x.

    Parameters
    ----------
    block : Block
    expected : Atoms
        The measure γ, unnormalised.
    enumeration : Enumeration, optional
    observed : callable
        Part of the particles (num, ...) to compare.

    Returns
    -------
    float
        The largest difference of masses, relative to the total mass of γ.

    Raises
    ------
    LawMismatch
        For a block that waits for a population, or has a part without a law.

    Examples
    --------
    The first two blocks of a particle filter, and what they would be without weights:

    >>> import numpy as np
    >>> from bayeskit import inference as bi
    >>> from bayeskit.validation import Atoms, battery, weighting_discrepancy
    >>> model = battery("finite")["hidden_markov"].target
    >>> first = bi.spawn(model.initial, 2) >> bi.weigh(model.log_g0)
    >>> seen = Atoms(np.arange(2), np.array([0.35 * 0.3, 0.65 * 1.1]))
    >>> unseen = Atoms(np.arange(2), np.array([0.35, 0.65]))
    >>> [round(weighting_discrepancy(first, measure), 6) for measure in (seen, unseen)]
    [0.0, 0.245]
    """
    if block.law is None:
        raise LawMismatch(f"{block.name} waits for a population: begin with spawn(...)")
    if block.law.kind is UNKNOWN:
        raise LawMismatch(f"{block.name} has an undeclared part, so there is no law to check")
    with jax.enable_x64(True):
        nothing = Atoms(np.zeros((1, 1)), np.ones(1))
        result = push(block, nothing, enumeration or Enumeration())
        population = result.state
        weights = result.mass[:, None] * np.exp(population.log_weights)
        flat = jax.tree.map(
            lambda x: np.asarray(x).reshape(-1, *np.shape(x)[2:]), population.particles
        )
        return discrepancy(observed(flat), weights.ravel(), expected)


@functools.lru_cache(maxsize=64)
def _with_its_start(step: Callable) -> Callable:
    return lambda key, state: (state, step(key, state))


class Invariance(NamedTuple):
    """How far a kernel is from leaving a measure invariant, and from being reversible.

    Parameters
    ----------
    invariance : float
        Largest change of the mass of a state by one step, of a total mass of 1.
    reversibility : float
        Largest difference of the masses of a pair of states and of its reverse.
    """

    invariance: float
    reversibility: float


def invariance_discrepancy(
    step: Callable,
    start: Atoms,
    enumeration: Enumeration | None = None,
    observed: Callable[[Any], Any] = lambda state: state,
) -> Invariance:
    """Check law L3 of ``step(key, state) -> state`` by its exact transition probabilities.

    Parameters
    ----------
    step : callable (key, state) -> state
    start : Atoms
        The measure to be left invariant; masses need not add up to 1.
    enumeration : Enumeration, optional
    observed : callable
        Part of a state (atoms, ...) to compare.

    Returns
    -------
    Invariance
        The largest discrepancies ``invariance`` and ``reversibility``, relative to the total
        mass; 0 means that the law holds.

    Raises
    ------
    TooManyPathsError
        If a step has more than ``max_paths`` paths.

    Notes
    -----
    As many calls of ``step``, in batches, as there are states times outcomes of its draws.

    Examples
    --------
    Going on by one or staying keeps equal masses, and goes round in one direction:

    >>> import jax.numpy as jnp, numpy as np
    >>> from bayeskit.inference import random
    >>> from bayeskit.validation import Atoms, invariance_discrepancy
    >>> step = lambda key, x: (x + random.categorical(key, jnp.zeros(2))) % 3
    >>> found = invariance_discrepancy(step, Atoms(np.arange(3), np.ones(3)))
    >>> found.invariance, round(found.reversibility, 4)
    (0.0, 0.1667)
    """
    total = start.mass.sum()
    start = Atoms(jax.tree.map(np.asarray, start.state), start.mass / total)
    pairs = enumerate_paths(_with_its_start(step), start, enumeration)
    before, after = pairs.state
    seen = Atoms(observed(start.state), start.mass)
    forward = discrepancy(observed(after), pairs.mass, seen)
    swapped = merge(Atoms((observed(after), observed(before)), pairs.mass))
    backward = discrepancy((observed(before), observed(after)), pairs.mass, swapped)
    return Invariance(forward, backward)
