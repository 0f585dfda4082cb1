"""Metropolis-Hastings-Green by an involution: the one move that all accept-reject moves are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bayeskit.inference import random
from bayeskit.inference.kernels.base import metropolis, not_usable
from bayeskit.inference.law import REVERSIBLE
from bayeskit.inference.maps import Involution
from bayeskit.inference.measure import Density, PointState, Target, TemperedPath
from bayeskit.inference.transitions.base import Transition, measure_of

__all__ = ["involutive", "metropolis_hastings", "swap"]


@dataclass(frozen=True, eq=False, repr=False)
class Involutive(Transition):
    """A move by an involution. See :func:`involutive`."""

    sample_auxiliary: Callable
    log_auxiliary: Callable
    involution: Involution
    automatic: bool
    on: Target | TemperedPath
    title: str

    @property
    def name(self):
        return self.title

    @property
    def measure(self):
        return measure_of(self.on)

    @property
    def law_kind(self):
        return REVERSIBLE

    @property
    def derivation(self):
        if self.automatic:
            volume = "by automatic differentiation"
        else:
            volume = "1" if self.involution.log_abs_det is None else "as declared"
        return (
            f"{self.title}: draw v ~ ρ(x, ·), map (x', v') = φ(x, v) with φ(φ(z)) = z, and",
            "    accept by min(1, γ(x') ρ(x', v') |det Dφ| / (γ(x) ρ(x, v))), "
            f"|det Dφ| {volume}",
        )

    def density(self, stage: Any) -> Density:
        """Return what is left invariant at a stage."""
        return self.on.density() if isinstance(self.on, Target) else self.on.at(stage)

    def init(self, key, value):
        target = self.on if isinstance(self.on, Target) else self.on.target
        return PointState(value, target.components(value))

    def value(self, state):
        return state.position

    def log_ratio(self, z: Any, image: Any, difference: jax.Array) -> jax.Array:
        """Return the log acceptance ratio of z to its image, NaN where it has no value."""
        before, after = self.log_auxiliary(*z), self.log_auxiliary(*image)
        total = difference + after - before
        if self.automatic:
            total += _log_abs_det(self.involution.phi, z)
        elif self.involution.log_abs_det is not None:
            total += self.involution.log_abs_det(z)
        # Where either density is zero nothing moves, whatever the other is.
        broken = jnp.isnan(before) | jnp.isnan(after)
        is_zero = jnp.isneginf(before) | jnp.isneginf(after) | ~jnp.isfinite(difference)
        return jnp.where(is_zero & ~broken, -jnp.inf, total)

    def proposal(
        self, state: PointState, v: Any, density: Density
    ) -> tuple[PointState, jax.Array, jax.Array]:
        """Return where v leads, the log acceptance ratio, and whether that is no number."""
        z = (state.position, v)
        image = _same_kind(self.involution.phi(z), z, self.title)
        there = PointState(image[0], density.components(image[0]))
        difference = density.combine(there.components) - density.combine(state.components)
        log_ratio = self.log_ratio(z, image, difference)
        broken = not_usable(there.components) | jnp.isnan(log_ratio) | (log_ratio == jnp.inf)
        return there, log_ratio, broken

    def step(self, key, state, stage=None):
        auxiliary_key, accept_key = random.split(key)
        v = self.sample_auxiliary(auxiliary_key, state.position)
        there, log_ratio, broken = self.proposal(state, v, self.density(stage))
        return metropolis(accept_key, state, there, log_ratio, broken)


def _same_kind(image: Any, z: Any, what: str) -> Any:
    """Return the image of z in the dtypes of z, if it lies in the same space."""
    here, there = _layout(z), _layout(image)
    if here != there:
        raise ValueError(
            f"{what}: the involution takes (x, v) of the form {here[1]} to {there[1]}: it must "
            "map the space of (x, v) to itself. Carry along what is not in use"
        )
    return jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), image, z)


def _layout(z: Any) -> tuple[Any, list]:
    kinds = [
        ("real" if _is_real(leaf) else "discrete", jnp.shape(leaf))
        for leaf in jax.tree.leaves(z)
    ]
    return jax.tree.structure(z), kinds


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _log_abs_det(phi: Callable, z: Any) -> jax.Array:
    """Return log |det Dφ(z)| over all floating-point leaves."""
    leaves, structure = jax.tree.flatten(z)
    is_real = [_is_real(leaf) for leaf in leaves]

    def reals(tree: Any) -> list:
        return [leaf for leaf, real in zip(jax.tree.leaves(tree), is_real, strict=True) if real]

    flat, unravel = ravel_pytree(reals(z))
    if not flat.size:
        return jnp.zeros(())

    def mapped(vector):
        moving = iter(unravel(vector))
        full = [next(moving) if real else x for x, real in zip(leaves, is_real, strict=True)]
        return ravel_pytree(reals(phi(jax.tree.unflatten(structure, full))))[0]

    return jnp.linalg.slogdet(jax.jacfwd(mapped)(flat))[1]


def involutive(
    sample_auxiliary: Callable,
    log_auxiliary: Callable,
    involution: Callable | Involution,
    target: Target | TemperedPath,
    *,
    name: str = "",
) -> Transition:
    r"""Draw v, map (x, v) by an involution, accept by the ratio of densities and volumes.

    With :math:`v \sim \rho(x, \cdot)` and :math:`(x', v') = \phi(x, v)` the move is accepted
    with probability

    .. math:: \min\Bigl(1, \frac{\gamma(x')\,\rho(x', v')}{\gamma(x)\,\rho(x, v)}
              \,|\det D\phi(x, v)|\Bigr)

    and is reversible (law L3). Metropolis-Hastings, Langevin, Hamiltonian and reversible jump
    moves are of this form.

    Parameters
    ----------
    sample_auxiliary : callable (key, x) -> v
        On any pytree x, whole numbers included.
    log_auxiliary : callable (x, v) -> () array
        Log density of v given x; up to a constant that depends on nothing.
    involution : callable ((x, v)) -> (x', v'), or Involution
        Of a plain function the Jacobian is found by automatic differentiation. An
        :class:`Involution` is taken as it declares: with its ``log_abs_det``, or preserving
        volume without.
    target : Target or TemperedPath
    name : str
        How it is printed.

    Returns
    -------
    Transition

    Raises
    ------
    TypeError
        If one of the functions cannot be called, or for a target of another type.
    ValueError
        When first run, if the involution leaves the space of (x, v).

    Notes
    -----
    One density evaluation a step. The automatic Jacobian of d floating-point numbers in x and
    v together costs d tangent passes through the involution and O(d³) for the determinant:
    declare it where d is large. A move from or to a point of density zero is rejected; one
    whose density, ratio or Jacobian is NaN or infinite is rejected and counted.

    References
    ----------
    Green (1995); Tierney (1998); Neklyudov et al. (2020), *Involutive MCMC*.

    Examples
    --------
    Multiply by a random factor, for a scale parameter:

    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: jnp.where(x > 0, -x, -jnp.inf))
    >>> scaling = bi.involutive(
    ...     lambda key, x: jnp.exp(bi.random.normal(key)),
    ...     lambda x, v: -0.5 * jnp.log(v) ** 2 - jnp.log(v),
    ...     lambda z: (z[0] * z[1], 1 / z[1]),
    ...     target,
    ...     name="scaling",
    ... )
    >>> draws, _ = bi.chain(scaling, jnp.asarray(1.0), 100, key=0)
    >>> bool(jnp.all(draws > 0))
    True
    """
    automatic = not isinstance(involution, Involution)
    declared = involution if isinstance(involution, Involution) else Involution(involution)
    for what, function in (
        ("sample_auxiliary", sample_auxiliary),
        ("log_auxiliary", log_auxiliary),
        ("involution", declared.phi),
    ):
        if not callable(function):
            raise TypeError(f"{what} must be a function, got {function!r}")
    if not isinstance(target, Target | TemperedPath):
        raise TypeError(
            f"an involutive move needs a density, as a Target or TemperedPath, got "
            f"{type(target).__name__}"
        )
    title = name or ("involutive move" if automatic else declared.name)
    return Involutive(sample_auxiliary, log_auxiliary, declared, automatic, target, title)


def swap(z: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return (v, x) of (x, v): the involution of Metropolis and Hastings."""
    x, v = z
    return v, x


def _symmetric(x: Any, proposed: Any) -> jax.Array:
    return jnp.zeros(())


def metropolis_hastings(
    propose: Callable,
    log_proposal: Callable | None,
    target: Target | TemperedPath,
    *,
    name: str = "Metropolis-Hastings",
) -> Transition:
    r"""Propose y from q(x, ·), accept by :math:`\gamma(y) q(y, x) / \gamma(x) q(x, y)`.

    The special case of :func:`involutive` in which the auxiliary variable is the proposed point
    and the involution exchanges the two.

    Parameters
    ----------
    propose : callable (key, x) -> y
    log_proposal : callable (x, y) -> () array, or None
        Log density :math:`\log q(x, y)` of y given x; None for a symmetric proposal.
    target : Target or TemperedPath
    name : str

    Returns
    -------
    Transition

    Raises
    ------
    TypeError, ValueError
        As :func:`involutive`.

    References
    ----------
    Metropolis et al. (1953); Hastings (1970).

    Examples
    --------
    From 2 to 1 of a density proportional to x, which is accepted one time in two:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> target = Target(log_density=lambda x: jnp.log(x))
    >>> other = bi.metropolis_hastings(lambda key, x: 3.0 - x, None, target)
    >>> state = other.init(None, jnp.array(2.0))
    >>> _, info = other.step(jax.random.key(0), state)
    >>> float(info.acceptance)
    0.5
    """
    log_density = _symmetric if log_proposal is None else log_proposal
    return involutive(propose, log_density, Involution(swap), target, name=name)
